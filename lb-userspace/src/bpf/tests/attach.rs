//! Programs at devices of a network namespace of its own, checked with the kernel after each step.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::process::Command;
use std::thread;

use super::super::sys::{self, Target};
use super::*;
use crate::devices::{Device, Role};

const INDEX: u32 = 90;
const NAME: &str = "sluice-a";

/// A veth pair in the network namespace of this thread, and pins.
struct Devices {
    lab: Lab,
    devices: Vec<Device>,
}

/// Runs a test in a thread with a network namespace of its own, which goes with it.
fn in_namespace(test: &str, body: impl FnOnce(Devices) + Send + 'static) {
    let Some(lab) = Lab::new(test) else { return };
    let run = move || {
        // SAFETY: it takes no pointers, and this thread holds nothing of its old namespace.
        assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0, "{}", std::io::Error::last_os_error());
        run("ip", &format!("link add {NAME} index {INDEX} type veth peer name sluice-b"));
        run("ip", &format!("link set {NAME} up"));
        run("ip", "link set sluice-b up");
        body(Devices { lab, devices: vec![Device { index: INDEX, name: NAME.to_owned(), role: Role::Nic }] });
    };
    thread::spawn(run).join().unwrap();
}

fn run(program: &str, arguments: &str) -> String {
    let output = Command::new(program).args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "{program} {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

impl Devices {
    fn attacher(&self, tc: TcMode) -> Attacher {
        Attacher::new(self.lab.pins.clone(), self.lab.load(&SMALL).0, XdpMode::Native, tc)
    }

    fn role(&mut self, role: Role) {
        self.devices[0].role = role;
    }

    fn sync(&self, attacher: &mut Attacher) -> Vec<String> {
        attacher.sync(&self.devices).iter().map(ToString::to_string).collect()
    }

    /// What is pinned and, as the kernel says, attached.
    fn attached(&self) -> Vec<String> {
        let all = self.lab.pins.attachments().unwrap();
        let live = all.iter().filter(|attachment| match attachment.how {
            How::Clsact => filters(attachment.hook) == 1,
            _ => self.target(attachment) == u64::from(INDEX),
        });
        live.map(ToString::to_string).collect()
    }

    fn link(&self, attachment: &Attachment) -> OwnedFd {
        sys::open(&self.lab.pins.attachment(attachment)).unwrap()
    }

    fn target(&self, attachment: &Attachment) -> u64 {
        sys::link_target(self.link(attachment).as_fd()).unwrap()
    }
}

/// How many filters of ours the kernel has.
fn filters(hook: Hook) -> usize {
    let side = if hook == Hook::TcEgress { "egress" } else { "ingress" };
    let shown = run("tc", &format!("filter show dev {NAME} {side}"));
    shown.lines().filter(|line| line.contains(hook.program())).count()
}

/// The kernel takes a program once: then tcx fails, as on a kernel that has none.
fn without_tcx(attacher: &Attacher) -> Vec<OwnedFd> {
    let at = |hook: Hook, target| sys::attach(attacher.programs().get(hook.program()).unwrap(), target).unwrap();
    vec![at(Hook::TcEgress, Target::TcxEgress(INDEX)), at(Hook::TcIngress, Target::TcxIngress(INDEX))]
}

const CLSACT_NIC: [&str; 3] = ["90-nic-xdp_ingress-native", "90-nic-tc_ingress-clsact", "90-nic-tc_egress-clsact"];
const TCX_NIC: [&str; 3] = ["90-nic-xdp_ingress-native", "90-nic-tc_ingress-tcx", "90-nic-tc_egress-tcx"];
const CLSACT_POD: [&str; 2] = ["90-pod-tc_ingress-clsact", "90-pod-tc_egress-clsact"];
const TCX_POD: [&str; 2] = ["90-pod-tc_ingress-tcx", "90-pod-tc_egress-tcx"];

#[test]
fn filters_stay_where_there_is_no_tcx_over_syncs_and_restarts() {
    in_namespace("filters_stay_where_there_is_no_tcx_over_syncs_and_restarts", |mut world| {
        for (role, expected) in [(Role::Nic, &CLSACT_NIC[..]), (Role::Pod, &CLSACT_POD)] {
            world.role(role);
            for restart in 0..3 {
                // Its notes are empty, as if what the agent before it had said were lost.
                let mut attacher = world.attacher(TcMode::Tcx);
                let _blocked = without_tcx(&attacher);
                for sync in 0..3 {
                    assert_eq!(world.sync(&mut attacher), [""; 0], "{role:?} {restart} {sync}");
                    assert_eq!(world.attached(), expected, "{role:?} {restart} {sync}");
                    let note = attacher.notes()[&INDEX].clone();
                    assert!(note.egress.unwrap().starts_with("tcx: "), "{role:?} {restart} {sync}");
                    assert!(
                        note.ingress.unwrap().starts_with("tcx: ") && note.xdp.is_none(),
                        "{role:?} {restart} {sync}"
                    );
                }
                assert_eq!(attacher.repairs(), 0);
            }
        }
    });
}

#[test]
fn the_pin_of_a_filter_holds_the_program_that_runs() {
    in_namespace("the_pin_of_a_filter_holds_the_program_that_runs", |world| {
        let mut ids = Vec::new();
        for _ in 0..2 {
            let mut attacher = world.attacher(TcMode::Clsact);
            assert_eq!(world.sync(&mut attacher), [""; 0]);
            assert_eq!(world.attached(), CLSACT_NIC);
            let shown = run("tc", &format!("filter show dev {NAME} egress"));
            let pin = Attachment { index: INDEX, role: Role::Nic, hook: Hook::TcEgress, how: How::Clsact };
            let id = fdinfo(&world.link(&pin), "prog_id");
            assert!(shown.contains(&format!(" id {id} ")), "{id}: {shown}");
            ids.push(id);
        }
        assert_ne!(ids[0], ids[1]);
    });
}

/// What the kernel says of a link or a program.
fn fdinfo(of: &OwnedFd, field: &str) -> u32 {
    let text = fs::read_to_string(format!("/proc/thread-self/fdinfo/{}", of.as_raw_fd())).unwrap();
    let value = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    value.unwrap().trim().parse().unwrap()
}

#[test]
fn programs_are_exchanged_at_all_hooks_or_it_is_said_where_they_are_not() {
    in_namespace("programs_are_exchanged_at_all_hooks_or_it_is_said_where_they_are_not", |world| {
        let loaded = || world.lab.load(&SMALL).0;
        for (tc, expected) in [(TcMode::Tcx, TCX_NIC), (TcMode::Clsact, CLSACT_NIC)] {
            let mut attacher = world.attacher(tc);
            assert_eq!(world.sync(&mut attacher), [""; 0]);
            assert!(attacher.run_everywhere().is_ok());
            let programs = |attacher: &Attacher| {
                let all = world.lab.pins.attachments().unwrap();
                let links = all.iter().filter(|attachment| attachment.how != How::Clsact);
                let running: Vec<_> = links.map(|attachment| fdinfo(&world.link(attachment), "prog_id")).collect();
                let own = |hook: Hook| sys_id(attacher.programs().get(hook.program()).unwrap());
                (running, [Hook::Xdp, Hook::TcIngress, Hook::TcEgress].map(own))
            };
            let (before, _) = programs(&attacher);
            attacher.replace(loaded());
            let error = attacher.run_everywhere().unwrap_err().to_string();
            assert!(error.contains(NAME) && error.contains("stays"), "{error}");
            assert_eq!(world.sync(&mut attacher), [""; 0]);
            assert!(attacher.run_everywhere().is_ok());
            let (after, own) = programs(&attacher);
            assert_eq!(after.len(), before.len());
            assert!(after.iter().all(|id| own.contains(id) && !before.contains(id)), "{before:?} {after:?} {own:?}");
            assert_eq!((world.attached(), attacher.repairs()), (expected.map(str::to_owned).to_vec(), 0));
            // For the next way of attaching.
            assert!(attacher.sync(&[]).is_empty());
        }
    });
}

/// The kernel's number of a program.
fn sys_id(program: BorrowedFd<'_>) -> u32 {
    fdinfo(&program.try_clone_to_owned().unwrap(), "prog_id")
}

#[test]
fn a_device_that_becomes_something_else_keeps_what_it_has() {
    in_namespace("a_device_that_becomes_something_else_keeps_what_it_has", |mut world| {
        let mut attacher = world.attacher(TcMode::Tcx);
        for (role, expected) in [(Role::Nic, &TCX_NIC[..]), (Role::Pod, &TCX_POD), (Role::Nic, &TCX_NIC)] {
            world.role(role);
            assert_eq!(world.sync(&mut attacher), [""; 0], "{role:?}");
            assert_eq!(world.attached(), expected, "{role:?}");
            assert!(attacher.notes().is_empty(), "{role:?}: {:?}", attacher.notes());
        }
        // Also when it happens while no agent runs.
        world.role(Role::Pod);
        let mut attacher = world.attacher(TcMode::Tcx);
        assert_eq!(world.sync(&mut attacher), [""; 0]);
        assert_eq!(world.attached(), TCX_POD);
        assert!(attacher.notes().is_empty() && attacher.repairs() == 0, "{attacher:?}");
    });
}

#[test]
fn what_others_detached_is_attached_again() {
    in_namespace("what_others_detached_is_attached_again", |world| {
        for (tc, expected) in [(TcMode::Tcx, TCX_NIC), (TcMode::Clsact, CLSACT_NIC)] {
            let mut attacher = world.attacher(tc);
            assert_eq!(world.sync(&mut attacher), [""; 0]);
            for attachment in world.lab.pins.attachments().unwrap() {
                match attachment.how {
                    // The first of the two filters took the other with it.
                    How::Clsact if filters(attachment.hook) == 0 => {}
                    How::Clsact => drop(run("tc", &format!("qdisc del dev {NAME} clsact"))),
                    _ => sys::detach(world.link(&attachment).as_fd()).unwrap(),
                }
            }
            assert_eq!(world.attached(), [""; 0], "{tc:?}");
            assert_eq!(world.sync(&mut attacher), [""; 0], "{tc:?}");
            assert_eq!(world.attached(), expected, "{tc:?}");
            assert_eq!(attacher.repairs(), 3, "{tc:?}");
            assert_eq!(world.sync(&mut attacher), [""; 0], "{tc:?}");
            assert_eq!(attacher.repairs(), 3, "{tc:?}: what is well is left alone");
            for attachment in world.lab.pins.attachments().unwrap() {
                std::fs::remove_file(world.lab.pins.attachment(&attachment)).unwrap();
            }
            assert_eq!(world.sync(&mut attacher), [""; 0], "{tc:?}");
            assert_eq!(world.attached(), expected, "{tc:?}");
            assert_eq!(attacher.repairs(), 6, "{tc:?}: without its pin a link is gone");
        }
    });
}

#[test]
fn another_layouts_links_are_taken_over_without_a_gap() {
    in_namespace("another_layouts_links_are_taken_over_without_a_gap", |world| {
        let pins = &world.lab.pins;
        let mut attacher = world.attacher(TcMode::Tcx);
        assert_eq!(world.sync(&mut attacher), [""; 0]);
        let ids = || {
            pins.attachments().unwrap().iter().map(|found| fdinfo(&world.link(found), "link_id")).collect::<Vec<_>>()
        };
        let before = ids();
        let [layout] = &pins.layouts(false).unwrap()[..] else { panic!("one layout") };
        let older = pins.root().join("v1000");
        fs::rename(layout, &older).unwrap();

        let mut attacher = world.attacher(TcMode::Tcx);
        assert_eq!(pins.attachments().unwrap(), []);
        assert_eq!(pins.take_over_links().unwrap(), 3);
        assert_eq!(world.sync(&mut attacher), [""; 0]);
        assert_eq!(remove_older_layouts(pins).unwrap(), [older]);
        assert_eq!(world.attached(), TCX_NIC);
        assert_eq!(ids(), before, "the same links");
        assert!(attacher.notes().is_empty() && attacher.repairs() == 0, "{attacher:?}");
        for attachment in pins.attachments().unwrap() {
            let program = attacher.programs().get(attachment.hook.program()).unwrap();
            let runs = fdinfo(&world.link(&attachment), "prog_id");
            assert_eq!(runs, fdinfo(&program.try_clone_to_owned().unwrap(), "prog_id"), "{attachment}");
        }
    });
}

#[test]
fn what_others_detached_from_sockets_is_attached_again() {
    let Some(lab) = Lab::new("what_others_detached_from_sockets_is_attached_again") else { return };
    let Some(root) = cgroup2_mount(&fs::read_to_string("/proc/mounts").unwrap()) else {
        return eprintln!("SKIP what_others_detached_from_sockets_is_attached_again: no cgroup2 is mounted");
    };
    let programs = RefCell::new(lab.load(&SMALL).0);
    // A cgroup without processes: nobody's sockets are touched.
    let cgroup = tempfile::Builder::new().prefix("sluice-").tempdir_in(root).unwrap();
    let mend = || mend_sockets(&lab.pins, &programs.borrow(), cgroup.path()).unwrap();
    attach_sockets(&lab.pins, &programs.borrow(), cgroup.path()).unwrap();
    assert_eq!(mend(), 0);
    let names = lab.pins.sockets().unwrap();
    let target = |name: &str| sys::link_target(sys::open(&lab.pins.socket(name)).unwrap().as_fd()).unwrap();
    let before: Vec<_> = names.iter().map(|name| target(name)).collect();
    sys::detach(sys::open(&lab.pins.socket(&names[0])).unwrap().as_fd()).unwrap();
    assert_eq!(target(&names[0]), 0);
    // Where tables of flows have grown, by the program that was there before.
    let program = || sys_id(programs.borrow().get(&names[0]).unwrap());
    let first = program();
    programs.borrow_mut().replace(Object::embedded().unwrap().load_moved(&lab.pins, false).unwrap());
    assert_eq!((mend(), mend()), (1, 0));
    let running = fdinfo(&sys::open(&lab.pins.socket(&names[0])).unwrap(), "prog_id");
    assert_eq!((running, program()), (first, first));
    assert_eq!(names.iter().map(|name| target(name)).collect::<Vec<_>>(), before);
    detach_sockets(&lab.pins).unwrap();
    fs::remove_dir(cgroup.keep()).unwrap();
}

#[test]
fn one_agent_keeps_the_pins() {
    let Some(lab) = Lab::new("one_agent_keeps_the_pins") else { return };
    lab.pins.create().unwrap();
    let lock = lab.pins.lock().unwrap();
    let error = lab.pins.lock().unwrap_err().to_string();
    assert!(error.contains("--pin-root"), "{error}");
    assert!(matches!(uninstall(&lab.pins), Err(Error::Taken { .. })) && lab.pins.exist());
    drop(lock);
    drop(lab.pins.lock().unwrap());
    assert_eq!(uninstall(&lab.pins).unwrap().layouts, 1);
    assert!(!lab.pins.root().exists());
}

#[test]
fn what_cannot_be_attached_anew_is_not_detached() {
    in_namespace("what_cannot_be_attached_anew_is_not_detached", |world| {
        let mut attacher = world.attacher(TcMode::Tcx);
        assert_eq!(world.sync(&mut attacher), [""; 0]);
        // A device without the name that the survey saw: filters cannot be attached to it, links remain.
        let mut attacher = world.attacher(TcMode::Clsact);
        let renamed = [Device { name: "elsewhere".to_owned(), ..world.devices[0].clone() }];
        assert_eq!(attacher.sync(&renamed).len(), 2);
        assert_eq!(world.attached(), TCX_NIC);
    });
}
