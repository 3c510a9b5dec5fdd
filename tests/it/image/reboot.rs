//! A soft reboot of a guest whose agent is well, by the agent and by the power button, and what virt-handler hears of it.

use std::time::Duration;

use super::adoption::the_hypervisor;
use super::{boot, vmi, with};
use crate::support::pod::{Pod, image, text};
use crate::support::virt_handler::{Received, VirtHandler};
use crate::support::{expect, wait_for};

/// For what a guest does in emulation, on a busy machine.
const GUEST: Duration = Duration::from_secs(300);
/// In which the launcher has to have given the order.
const SECONDS: Duration = Duration::from_secs(5);
const BUTTON: &str = "guest: power button";

/// The states that virt-handler was told since.
fn states(virt_handler: &VirtHandler, since: usize) -> Vec<String> {
    let text = |value: Option<&serde_json::Value>| value.and_then(|text| text.as_str()).unwrap_or_default().to_owned();
    let received = virt_handler.pipe.received();
    let domains = received.iter().skip(since).filter_map(|event| match event {
        Received::Domain { domain, .. } => {
            let deleted = domain.pointer("/ObjectMeta/deletionTimestamp").is_some_and(|at| !at.is_null());
            let status = text(domain.pointer("/Status/Status"));
            Some(if deleted { format!("{status}, deleted") } else { status })
        }
        Received::K8s(_) => None,
    });
    domains.collect()
}

fn wait_ready(pod: &Pod, boots: usize) {
    wait_for("another boot", GUEST, || {
        let console = pod.wait_console("");
        expect(console.matches("guest: ready").count() == boots, format!("{console}\n{}", pod.log()))
    });
}

fn wait_agent(virt_handler: &VirtHandler) {
    let (status, _) = virt_handler.wait_vmi("the agent", GUEST, |vmi| vmi.agent_connected);
    assert_eq!((status.phase, status.agent_unsupported), ("Running", None));
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn soft_reboot_boots_the_guest_again_in_the_same_qemu() {
    let image = image();
    let pod = Pod::start(&image, "demo", &[]);
    pod.wait_ready();
    let virt_handler = pod.virt_handler(&vmi("demo"));
    boot(&pod, &vmi("demo"));
    wait_ready(&pod, 1);
    wait_agent(&virt_handler);
    let hypervisor = the_hypervisor(&pod);
    let since = virt_handler.pipe.received().len();

    // virt-handler's VMI says that there is an agent; without that the guest hears of it by its power button. Each twice.
    let connected = with(
        &vmi("demo"),
        "  phase: Scheduled\n",
        "  phase: Running\n  conditions: [{type: AgentConnected, status: \"True\"}]\n",
    );
    for (order, (vmi, buttons)) in [(&connected, 0), (&connected, 0), (&vmi("demo"), 1)].into_iter().enumerate() {
        let begun = std::time::Instant::now();
        let asked = pod.ctl_with(&["soft-reboot", "--vmi"], vmi);
        assert!(asked.status.success() && begun.elapsed() < SECONDS, "{:?}: {}", begun.elapsed(), text(&asked));
        wait_ready(&pod, order + 2);
        assert_eq!(pod.wait_console("").matches(BUTTON).count(), buttons);
        assert_eq!(the_hypervisor(&pod), hypervisor);
        // The agent of the new boot is asked anew.
        wait_for("the agent of the new boot", GUEST, || {
            let ping = pod.ctl(&["guest-ping"]);
            expect(ping.status.success(), text(&ping))
        });
        wait_agent(&virt_handler);
    }
    let states = states(&virt_handler, since);
    let is_up = |state: &String| ["Running", "Paused", "ShuttingDown"].contains(&state.as_str());
    assert!(states.iter().all(is_up), "{states:?}");
    assert_eq!(pod.status(), "Running");
    assert_eq!(virt_handler.calls(), [""; 0], "virt-handler has nothing to end");

    // A virt-handler that starts anew finds the same, agent and all, with nothing new to be told.
    let before = virt_handler.vmi();
    drop(virt_handler);
    let virt_handler = pod.virt_handler(&vmi("demo"));
    virt_handler.wait_vmi("the same status", GUEST, |vmi| *vmi == before);
    let asked = pod.ctl(&["shutdown"]);
    assert!(asked.status.success(), "{}", text(&asked));
    virt_handler.wait_vmi("the end", GUEST, |vmi| vmi.phase == "Succeeded");
    assert_eq!(pod.wait_exit(), 0, "{}", pod.log());
}
