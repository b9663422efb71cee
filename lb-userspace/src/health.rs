//! Whether this node's Services work, as load balancers and kubelets ask it: a function of facts and of the time.
//!
//! Follows kube-proxy 1.37 (pkg/proxy/healthcheck): what waits for too long to get into the maps is unhealthy, and a node
//! that is about to go is not eligible. Beyond that, programs that are not where they should be are unhealthy too. Whether
//! the API server answers plays no part: traffic goes on without it.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use lb_common::ip::Family;
use serde::Serialize;

/// News that wait longer than so many seconds make a node unhealthy: twice kube-proxy's `syncPeriod`, as there.
pub const TIMEOUT: i64 = 60;

/// The taint of a node that the cluster autoscaler is about to remove.
pub const TO_BE_DELETED: &str = "ToBeDeletedByClusterAutoscaler";

/// How the maps of one address family keep up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Since when the oldest news wait that could be in the maps, and are not. What an agent that starts has not been
    /// told yet does not wait.
    pub queued: Option<Timestamp>,
    /// When the maps were last as they should be; none before the first time.
    pub updated: Option<Timestamp>,
}

impl Progress {
    fn is_late(&self, now: Timestamp) -> bool {
        self.queued.is_some_and(|since| now.duration_since(since) >= SignedDuration::from_secs(TIMEOUT))
    }
}

/// All that health is judged by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// IPv4, and IPv6.
    pub progress: [Progress; 2],
    /// Whether programs are in the kernel. An agent that starts anew has none yet, one that takes over has.
    pub attached: bool,
    /// Whether nobody is about to remove this node.
    pub node_eligible: bool,
    /// Why the maps could not be read or written the last time, if so.
    pub error: Option<String>,
    /// Programs that are not where they should be, in words.
    pub faults: Vec<String>,
}

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// Whether new traffic shall come to this node.
    Healthz,
    /// Whether this agent works, also on a node that is about to go.
    Livez,
}

/// The answer, with the fields that kube-proxy has. `reasons` is ours.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    /// Now where all is well, else when the maps of any family were last as they should be.
    pub last_updated: Timestamp,
    /// Now.
    pub current_time: Timestamp,
    /// Whether nobody is about to remove this node; only where that counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_eligible: Option<bool>,
    /// Whether programs and maps are as they should be.
    pub healthy: bool,
    /// By family, once there is something to say.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub status: BTreeMap<&'static str, FamilyAnswer>,
    /// Why not, in words.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<String>,
}

/// The part of the answer about one address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FamilyAnswer {
    /// When its maps were last as they should be.
    pub last_updated: Timestamp,
    /// Whether nothing waits for too long.
    pub healthy: bool,
}

impl Answer {
    /// Whether to say 200 and not 503.
    pub fn is_ok(&self) -> bool {
        self.healthy && self.node_eligible != Some(false)
    }
}

/// The name of a family, as Kubernetes writes it.
pub const fn family_name(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}

/// Answers a question.
pub fn answer(facts: &Facts, question: Question, now: Timestamp) -> Answer {
    // Go's zero time, which is what kube-proxy prints for never.
    let never = Timestamp::from_second(-62_135_596_800).unwrap_or(Timestamp::MIN);
    let (mut status, mut reasons) = (BTreeMap::new(), Vec::new());
    for (family, progress) in [Family::V4, Family::V6].map(family_name).into_iter().zip(&facts.progress) {
        let healthy = !progress.is_late(now);
        if !healthy {
            let why = facts.error.as_ref().map_or(String::new(), |error| format!(": {error}"));
            reasons.push(format!("the {family} maps have not followed what is declared for over {TIMEOUT} s{why}"));
        }
        if progress.updated.is_some() || !healthy {
            status.insert(family, FamilyAnswer { last_updated: progress.updated.unwrap_or(never), healthy });
        }
    }
    reasons.extend(facts.faults.iter().cloned());
    // Starting is no illness that a new start could heal, but no reason for traffic to come either.
    if question == Question::Healthz && !facts.attached {
        reasons.push("nothing is attached yet: what is declared is not known in full".to_owned());
    }
    let healthy = reasons.is_empty();
    let node_eligible = (question == Question::Healthz).then_some(facts.node_eligible);
    if node_eligible == Some(false) {
        reasons.push("this node is about to be removed".to_owned());
    }
    let last_updated = facts.progress.iter().filter_map(|progress| progress.updated).max().unwrap_or(never);
    let mut answer = Answer { last_updated, current_time: now, node_eligible, healthy, status, reasons };
    if answer.is_ok() {
        answer.last_updated = now;
    }
    answer
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn well() -> Facts {
        let progress = Progress { queued: None, updated: Some(at(1000)) };
        Facts { progress: [progress; 2], attached: true, node_eligible: true, ..Facts::default() }
    }

    fn queued(family: usize, since: i64) -> Facts {
        let mut facts = well();
        facts.progress[family].queued = Some(at(since));
        facts
    }

    /// Both questions at second 2000: 200 or not.
    fn codes(facts: &Facts) -> [bool; 2] {
        [Question::Healthz, Question::Livez].map(|question| answer(facts, question, at(2000)).is_ok())
    }

    #[test]
    fn what_makes_a_node_unhealthy() {
        let starting = Facts { progress: [Progress::default(); 2], ..well() };
        let stuck = Facts { progress: [Progress { queued: Some(at(0)), updated: None }; 2], ..well() };
        let rows = [
            ("all is well", well(), [true, true]),
            ("news wait, not for long yet", queued(0, 1941), [true, true]),
            ("news of IPv4 wait for the whole timeout", queued(0, 1940), [false, false]),
            ("news of IPv6 wait for long", queued(1, 1000), [false, false]),
            ("an agent takes over, and has not been told all yet", starting.clone(), [true, true]),
            ("an agent takes over, and never caught up", stuck, [false, false]),
            ("an agent starts anew", Facts { attached: false, ..starting }, [false, true]),
            ("the node is about to go", Facts { node_eligible: false, ..well() }, [false, true]),
            ("a program is missing", Facts { faults: vec!["eth0".into()], ..well() }, [false, false]),
        ];
        for (name, facts, expected) in rows {
            assert_eq!(codes(&facts), expected, "{name}");
        }
    }

    fn told(facts: &Facts, question: Question) -> Value {
        serde_json::to_value(answer(facts, question, at(2000))).unwrap()
    }

    #[test]
    fn the_answer_has_the_fields_and_times_of_kube_proxy() {
        let (now, then) = ("1970-01-01T00:33:20Z", "1970-01-01T00:16:40Z");
        let family = json!({"lastUpdated": then, "healthy": true});
        assert_eq!(
            told(&well(), Question::Healthz),
            json!({"lastUpdated": now, "currentTime": now, "nodeEligible": true, "healthy": true,
                   "status": {"IPv4": family, "IPv6": family}})
        );
        assert_eq!(
            told(&well(), Question::Livez),
            json!({"lastUpdated": now, "currentTime": now, "healthy": true, "status": {"IPv4": family, "IPv6": family}})
        );
        let late = json!({"lastUpdated": then, "healthy": false});
        assert_eq!(
            told(&Facts { error: Some("no room".into()), ..queued(1, 0) }, Question::Livez),
            json!({"lastUpdated": then, "currentTime": now, "healthy": false, "status": {"IPv4": family, "IPv6": late},
                   "reasons": ["the IPv6 maps have not followed what is declared for over 60 s: no room"]})
        );
    }

    #[test]
    fn a_node_that_is_to_go_is_healthy_but_not_eligible() {
        let told = told(&Facts { node_eligible: false, ..well() }, Question::Healthz);
        assert_eq!((&told["healthy"], &told["nodeEligible"]), (&json!(true), &json!(false)));
        assert_eq!(told["lastUpdated"], "1970-01-01T00:16:40Z", "now is only for what is well");
    }

    #[test]
    fn the_answer_is_letter_for_letter_that_of_a_real_kube_proxy() {
        // kube-proxy 1.37.2, nftables mode, its Node with the taint of the autoscaler.
        let recorded = "{\"lastUpdated\":\"2026-11-23T04:25:11.97099746Z\",\"currentTime\":\"2026-11-23T04:25:18.308705578Z\",\
            \"nodeEligible\":false,\"healthy\":true,\"status\":{\
            \"IPv4\":{\"lastUpdated\":\"2026-11-23T04:25:11.926957712Z\",\"healthy\":true},\
            \"IPv6\":{\"lastUpdated\":\"2026-11-23T04:25:11.97099746Z\",\"healthy\":true}}}";
        let updated = ["2026-11-23T04:25:11.926957712Z", "2026-11-23T04:25:11.970997460Z"];
        let progress = updated.map(|time| Progress { queued: None, updated: time.parse().ok() });
        let now = "2026-11-23T04:25:18.308705578Z".parse().unwrap();
        let mut answer = answer(&Facts { progress, node_eligible: false, ..well() }, Question::Healthz, now);
        assert_eq!(std::mem::take(&mut answer.reasons), ["this node is about to be removed"]);
        assert_eq!(serde_json::to_string(&answer).unwrap(), recorded);
    }

    #[test]
    fn never_is_what_go_prints_for_no_time() {
        let facts = Facts { progress: [Progress::default(); 2], attached: false, ..well() };
        let told = told(&facts, Question::Healthz);
        assert_eq!(told["lastUpdated"], "0001-01-01T00:00:00Z");
        assert_eq!(told.get("status"), None);
    }
}
