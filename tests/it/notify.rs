//! The outbox against a virt-handler that is late, slow, broken, restarted: it ends with the true last state, in order.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::support::gate;
use crate::support::virt_handler::{Behaviour, NotifyPipe, Received};
use serde_json::json;
use tempfile::TempDir;
use tonic::Code;
use virt_launcher::notify::{
    EventType, InvolvedObject, K8sEvent, K8sEventType, Leftover, Outbox, Timings, socket_below,
};

/// For what must happen at once; generous, since the machine may be busy.
const SOON: Duration = Duration::from_secs(20);

fn document(n: u64) -> Arc<str> {
    Arc::from(json!({ "n": n }).to_string())
}

fn start(share: &TempDir) -> Outbox {
    gate::clocked();
    let timings = Timings { call: Duration::from_millis(300), ..Timings::default() };
    Outbox::start(socket_below(share.path()), timings)
}

/// `(eventType, n)` of each domain event.
fn heard(received: &[Received]) -> Vec<(String, u64)> {
    received
        .iter()
        .filter_map(|event| match event {
            Received::Domain { event_type, domain } => Some((event_type.clone(), domain["n"].as_u64().unwrap())),
            Received::K8s(_) => None,
        })
        .collect()
}

fn last(received: &[Received]) -> Option<u64> {
    heard(received).last().map(|(_, n)| *n)
}

fn event(n: usize) -> K8sEvent {
    K8sEvent {
        involved_object: InvolvedObject { namespace: "ns".into(), name: "vm".into(), uid: "u".into() },
        event_type: K8sEventType::Warning,
        reason: "IOerror".into(),
        message: n.to_string(),
    }
}

async fn acknowledged(outbox: &Outbox, generation: u64) {
    let mut newest = outbox.acknowledged();
    let reached = tokio::time::timeout(SOON, newest.wait_for(|newest| *newest >= generation)).await;
    assert!(reached.is_ok(), "generation {generation} was not acknowledged, only {}", *outbox.acknowledged().borrow());
}

#[tokio::test]
async fn handler_that_is_there_hears_everything_in_order() {
    let share = TempDir::new().unwrap();
    let pipe = NotifyPipe::present(share.path());
    let outbox = start(&share);
    for n in 0..20 {
        let kind = if n == 0 { EventType::Added } else { EventType::Modified };
        let generation = outbox.domain_event(kind, document(n));
        acknowledged(&outbox, generation).await;
    }
    let heard = heard(&pipe.received());
    assert_eq!(heard[0], ("ADDED".to_owned(), 0));
    let rest: Vec<_> = (1..20).map(|n| ("MODIFIED".to_owned(), n)).collect();
    assert_eq!(heard[1..], rest[..]);
}

#[tokio::test]
async fn changes_during_virt_handlers_absence_arrive_as_one_true_state() {
    let share = TempDir::new().unwrap();
    let mut pipe = NotifyPipe::absent(share.path());
    let outbox = start(&share);
    outbox.domain_event(EventType::Added, document(0));
    let mut generation = 0;
    for n in 1..200 {
        generation = outbox.domain_event(EventType::Modified, document(n));
        tokio::task::yield_now().await;
    }
    pipe.appear();
    let back = Instant::now();
    acknowledged(&outbox, generation).await;
    assert!(back.elapsed() < Duration::from_secs(2), "took {:?}", back.elapsed());
    assert_eq!(heard(&pipe.received()), [("ADDED".to_owned(), 199)], "once, newest, still an ADDED");
}

#[tokio::test]
async fn socket_file_without_a_listener_is_tried_again_until_somebody_listens() {
    let share = TempDir::new().unwrap();
    let mut pipe = NotifyPipe::present(share.path());
    pipe.crash();
    let outbox = start(&share);
    let generation = outbox.domain_event(EventType::Added, document(1));
    pipe.appear();
    acknowledged(&outbox, generation).await;
    assert_eq!(heard(&pipe.received()), [("ADDED".to_owned(), 1)]);
}

#[tokio::test]
async fn missing_directory_is_no_obstacle_later() {
    let share = TempDir::new().unwrap();
    let below = share.path().join("later");
    let outbox = Outbox::start(socket_below(&below), Timings::default());
    let generation = outbox.domain_event(EventType::Added, document(1));
    tokio::task::yield_now().await;
    std::fs::create_dir(&below).unwrap();
    let pipe = NotifyPipe::present(&below);
    acknowledged(&outbox, generation).await;
    assert_eq!(last(&pipe.received()), Some(1));
}

#[tokio::test]
async fn outbox_overcomes_transient_errors() {
    let share = TempDir::new().unwrap();
    let pipe = NotifyPipe::present(share.path());
    let outbox = start(&share);
    for code in [Code::Unavailable, Code::Aborted, Code::DeadlineExceeded] {
        pipe.behave(Behaviour::Fails(code));
        let generation = outbox.domain_event(EventType::Modified, document(code as u64));
        tokio::time::timeout(Duration::from_millis(200), acknowledged(&outbox, generation)).await.unwrap_err();
        pipe.behave(Behaviour::Takes);
        acknowledged(&outbox, generation).await;
    }
    let expected: Vec<_> = [Code::Unavailable, Code::Aborted, Code::DeadlineExceeded]
        .iter()
        .map(|code| ("MODIFIED".to_owned(), *code as u64))
        .collect();
    assert_eq!(heard(&pipe.received()), expected);
}

#[tokio::test]
async fn refusal_by_virt_handler_counts_as_an_answer() {
    let share = TempDir::new().unwrap();
    let pipe = NotifyPipe::present(share.path());
    let outbox = start(&share);
    pipe.behave(Behaviour::Refuses("no room".into()));
    let generation = outbox.domain_event(EventType::Modified, document(1));
    acknowledged(&outbox, generation).await;
    pipe.behave(Behaviour::Fails(Code::Unimplemented));
    let generation = outbox.domain_event(EventType::Modified, document(2));
    acknowledged(&outbox, generation).await;
    pipe.behave(Behaviour::Takes);
    let generation = outbox.domain_event(EventType::Modified, document(3));
    acknowledged(&outbox, generation).await;
    assert_eq!(heard(&pipe.received()), [("MODIFIED".to_owned(), 3)], "what was refused is not repeated");
}

#[tokio::test]
async fn handler_that_does_not_answer_in_time_is_asked_again() {
    let share = TempDir::new().unwrap();
    let pipe = NotifyPipe::present(share.path());
    let outbox = start(&share);
    pipe.behave(Behaviour::Slow(Duration::from_secs(3600)));
    outbox.domain_event(EventType::Added, document(1));
    pipe.wait_for("the first attempt", SOON, |received| !received.is_empty()).await;
    let generation = outbox.domain_event(EventType::Modified, document(2));
    pipe.behave(Behaviour::Takes);
    acknowledged(&outbox, generation).await;
    let heard = heard(&pipe.received());
    assert_eq!(
        heard.last(),
        Some(&("ADDED".to_owned(), 2)),
        "nobody knows whether the first ADDED was heard: {heard:?}"
    );
}

#[tokio::test]
async fn restarts_of_virt_handler_lose_and_reorder_nothing() {
    let share = TempDir::new().unwrap();
    let mut pipe = NotifyPipe::present(share.path());
    let outbox = start(&share);
    let mut generation = outbox.domain_event(EventType::Added, document(0));
    for n in 1..300 {
        generation = outbox.domain_event(EventType::Modified, document(n));
        match n % 100 {
            20 => pipe.behave(Behaviour::Hangs),
            40 => pipe.vanish(),
            60 => pipe.behave(Behaviour::Takes),
            80 => pipe.appear(),
            _ => tokio::task::yield_now().await,
        }
        if n % 10 == 9 && pipe.received().is_empty() {
            pipe.wait_for("the first event", SOON, |received| !received.is_empty()).await;
        }
    }
    pipe.behave(Behaviour::Takes);
    pipe.appear();
    acknowledged(&outbox, generation).await;
    let heard = heard(&pipe.received());
    assert_eq!(heard[0].0, "ADDED");
    assert!(heard.is_sorted_by_key(|(_, n)| *n), "{heard:?}");
    assert_eq!(heard.last().unwrap().1, 299);
}

#[tokio::test]
async fn deletion_is_the_last_word() {
    let share = TempDir::new().unwrap();
    let mut pipe = NotifyPipe::absent(share.path());
    let outbox = start(&share);
    outbox.domain_event(EventType::Modified, document(1));
    outbox.domain_event(EventType::Modified, document(2));
    let deletion = outbox.domain_event(EventType::Deleted, document(3));
    assert_eq!(outbox.domain_event(EventType::Modified, document(4)), deletion);
    pipe.appear();
    acknowledged(&outbox, deletion).await;
    assert_eq!(outbox.domain_event(EventType::Modified, document(5)), deletion);
    assert_eq!(outbox.close(SOON).await, Leftover::default());
    assert_eq!(heard(&pipe.received()), [("MODIFIED".to_owned(), 2), ("MODIFIED".to_owned(), 3)]);
}

#[tokio::test]
async fn kubernetes_events_keep_their_order_and_their_bound() {
    let share = TempDir::new().unwrap();
    let mut pipe = NotifyPipe::absent(share.path());
    let outbox = start(&share);
    for n in 0..120 {
        outbox.k8s_event(&event(n));
    }
    pipe.appear();
    assert_eq!(outbox.close(SOON).await, Leftover::default());
    let messages: Vec<_> = pipe
        .received()
        .iter()
        .map(|event| match event {
            Received::K8s(event) => event["message"].as_str().unwrap().parse::<usize>().unwrap(),
            Received::Domain { .. } => panic!("nobody sent a domain event"),
        })
        .collect();
    assert_eq!(messages, (20..120).collect::<Vec<_>>());
}

#[tokio::test]
async fn slow_kubernetes_event_does_not_hold_up_the_state() {
    let share = TempDir::new().unwrap();
    let pipe = NotifyPipe::present(share.path());
    let outbox = Outbox::start(socket_below(share.path()), Timings::default());
    pipe.behave(Behaviour::Slow(Duration::from_secs(3600)));
    outbox.k8s_event(&event(1));
    pipe.wait_for("the event", SOON, |received| received.len() == 1).await;
    pipe.behave(Behaviour::Takes);
    let sent = Instant::now();
    let generation = outbox.domain_event(EventType::Added, document(1));
    acknowledged(&outbox, generation).await;
    assert!(sent.elapsed() < Timings::default().call, "it waited for the other call");
}

#[tokio::test]
async fn outbox_that_closes_says_what_was_not_acknowledged() {
    let share = TempDir::new().unwrap();
    let outbox = start(&share);
    outbox.domain_event(EventType::Modified, document(1));
    outbox.domain_event(EventType::Deleted, document(2));
    outbox.k8s_event(&event(1));
    let start = Instant::now();
    let left = outbox.close(Duration::from_millis(50)).await;
    assert_eq!(left, Leftover { domain_events: 2, k8s_events: 1 });
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn protocol_of_another_version_is_not_spoken() {
    let share = TempDir::new().unwrap();
    let pipe = NotifyPipe::present(share.path());
    pipe.offer_versions(&[2, 3]);
    let outbox = start(&share);
    let generation = outbox.domain_event(EventType::Added, document(1));
    tokio::time::timeout(Duration::from_millis(200), acknowledged(&outbox, generation)).await.unwrap_err();
    assert_eq!(pipe.received(), []);
    pipe.offer_versions(&[3, 1]);
    acknowledged(&outbox, generation).await;
}

#[tokio::test]
async fn process_of_the_pod_is_not_taken_for_virt_handler() {
    let share = TempDir::new().unwrap();
    let impostor = NotifyPipe::present(share.path());
    let own = i32::try_from(std::process::id()).unwrap();
    let outbox = Outbox::start_in_pod(socket_below(share.path()), Timings::default(), Some(own));
    outbox.domain_event(EventType::Modified, document(1));
    assert_eq!(outbox.close(Duration::from_secs(1)).await, Leftover { domain_events: 1, k8s_events: 0 });
    assert_eq!(impostor.received(), []);
    // Who does not descend from the pod's first process may be.
    let mut other = std::process::Command::new("sleep").arg("60").spawn().unwrap();
    let monitor = i32::try_from(other.id()).unwrap();
    let outbox = Outbox::start_in_pod(socket_below(share.path()), Timings::default(), Some(monitor));
    let generation = outbox.domain_event(EventType::Modified, document(2));
    acknowledged(&outbox, generation).await;
    other.kill().unwrap();
    other.wait().unwrap();
}
