//! Where the demo declares what there is: a folder of manifests, or a real API server, told by kubectl. The story is the
//! same.

use anyhow::Result;

use super::screen::Screen;
use crate::lab::{Lab, Pod, Source};
use crate::plane::{Plane, PlaneOptions, program};

const SERVICE: &str = include_str!("../../demo/service.yaml");
const POD: &str = include_str!("../../demo/pod.yaml");

/// What knows the Service and its pods.
pub(super) enum Cluster<'a> {
    Folder(&'a Lab),
    Kubernetes(Box<Plane<'a>>),
}

impl<'a> Cluster<'a> {
    pub(super) fn start(lab: &'a Lab, kubernetes: bool, screen: &Screen) -> Result<Self> {
        if !kubernetes {
            return Ok(Self::Folder(lab));
        }
        let what = "Starting a control plane: etcd, kube-apiserver, kube-controller-manager";
        let plane = screen.wait(what, || Plane::start(lab, PlaneOptions::default()))?;
        screen.fact(&format!("The API server answers at {}.", Plane::url(0)));
        Ok(Self::Kubernetes(Box::new(plane)))
    }

    /// What the agent follows.
    pub(super) fn source(&self) -> Result<Source> {
        match self {
            Self::Folder(lab) => Ok(Source::Manifests(lab.manifests.dir().to_owned())),
            Self::Kubernetes(plane) => plane.source([]),
        }
    }

    /// Declares the Service and these pods, and shows how.
    pub(super) fn declare(&mut self, pods: &[Pod], screen: &Screen) -> Result<()> {
        match self {
            Self::Folder(lab) => {
                lab.manifests.write("service.yaml", SERVICE)?;
                screen.say("The manifests, as you would give them to Kubernetes. This is the Service (the pods have one file each):");
            }
            Self::Kubernetes(plane) => {
                plane.apply(SERVICE)?;
                screen.say(
                    "The Service and the pods are given to the API server with `kubectl apply`. This is the Service:",
                );
            }
        }
        screen.quote(SERVICE);
        for pod in pods {
            self.run_pod(pod)?;
        }
        if let Self::Kubernetes(plane) = self {
            plane.wait_for_endpoints("web", pods)?;
            screen.say("kube-controller-manager has made EndpointSlices of it. (No kubelet runs here: the demo writes what it would.)");
            for command in [&["get", "service", "web"][..], &["get", "endpointslices"]] {
                screen.command(&format!("kubectl {}", command.join(" ")), &plane.kubectl(command)?);
            }
        }
        Ok(())
    }

    /// Declares a pod that runs and is ready.
    pub(super) fn run_pod(&self, pod: &Pod) -> Result<()> {
        let [ip, ip6] = pod.ips.map(|ip| ip.to_string());
        let text = POD.replace("{name}", &pod.name).replace("{ip}", &ip).replace("{ip6}", &ip6);
        match self {
            Self::Folder(lab) => lab.manifests.write(&format!("{}.yaml", pod.name), &text),
            Self::Kubernetes(plane) => {
                plane.apply(&text)?;
                // The API server takes no status with a new pod: that is the kubelet's to write.
                plane.set_ready(pod, true)
            }
        }
    }

    /// Lets a pod leave the Service; `others` stay.
    pub(super) fn delete_pod(&mut self, pod: &Pod, others: &[Pod]) -> Result<()> {
        match self {
            Self::Folder(lab) => lab.manifests.delete(&format!("{}.yaml", pod.name)),
            Self::Kubernetes(plane) => {
                plane.delete_pod(pod)?;
                plane.wait_for_endpoints("web", others).map(drop)
            }
        }
    }

    /// Says that its process has ended.
    pub(super) fn pod_ended(&self, pod: &str) -> Result<()> {
        match self {
            Self::Folder(_) => Ok(()),
            Self::Kubernetes(plane) => plane.pod_ended(pod),
        }
    }

    /// How to delete a pod by hand, and to look at the endpoints, in a shell on the node.
    pub(super) fn commands(&self) -> Result<Vec<(&'static str, String)>> {
        Ok(match self {
            Self::Folder(lab) => {
                vec![("delete a pod, or edit one", format!("rm {}/web-1.yaml", lab.manifests.dir().display()))]
            }
            Self::Kubernetes(plane) => {
                let (program, config) = (program("kubectl")?, plane.kubeconfig());
                let kubectl = format!("{} {} --kubeconfig {}", plane.nsenter(), program.display(), config.display());
                vec![
                    ("see what Kubernetes knows", format!("{kubectl} get services,pods,endpointslices")),
                    ("delete a pod", format!("{kubectl} delete pod web-1 --force")),
                ]
            }
        })
    }
}
