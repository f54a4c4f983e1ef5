//! Words: what goes into and comes out of a member, in a line that can be read.

use ringfence_operators::ids::Epoch;

use super::chance::mix;
use ringfence::internals::protocol::message::{Event, Input, Message, RegisterReply};
use ringfence::internals::protocol::view::Evidence;

fn epoch(epoch: Option<Epoch>) -> String {
    epoch.map_or("the beginning".to_owned(), |epoch| format!("epoch {epoch}"))
}

fn evidence(evidence: &Evidence) -> String {
    let live = evidence.copies.iter().filter(|copy| copy.live).count();
    let replicas = evidence.copies.iter().filter(|copy| copy.replica.is_some()).count();
    format!(
        "view {}: recorded {}, {live} live partitions, {replicas} replicas",
        evidence.view,
        epoch(evidence.recorded)
    )
}

/// Beats and ticks are too many to read.
pub(super) fn is_worth_telling(input: &Input) -> bool {
    !matches!(input, Input::Tick | Input::Message { message: Message::Beat { .. }, .. })
}

/// An input, in words.
pub(super) fn of_input(input: &Input) -> String {
    match input {
        Input::Message { from, message: Message::Evidence(given) } => {
            format!("node {from} gives evidence of {}", evidence(given))
        }
        Input::Message { from, message: Message::Stop { view, reason } } => {
            format!("node {from} stops view {view}: {}", reason.why)
        }
        Input::Message { from, message } => format!("node {from} says {message:?}"),
        Input::GenerationStopped { evidence: given, awaited, .. } => format!(
            "its generation is closed; it holds of {}, and awaits {} partitions",
            evidence(given),
            awaited.len()
        ),
        Input::EvidenceGrown { evidence: given, awaited, .. } => format!(
            "a worker came late; it holds of {}, and awaits {} partitions",
            evidence(given),
            awaited.len()
        ),
        Input::Register(RegisterReply::Read { number, view, done }) => format!(
            "the register {} view {number}{}",
            if view.is_some() { "has" } else { "does not have" },
            if *done { ", and the run is done" } else { "" }
        ),
        other => format!("{other:?}"),
    }
}

/// An event that a member reports, in words.
pub(super) fn of_event(event: &Event) -> String {
    match event {
        Event::Suspicion { view, what } => format!("suspects in view {view}: {what}"),
        Event::Stopped { view, recorded } => {
            format!("has stopped view {view}, recorded {}", epoch(*recorded))
        }
        other => format!("{other:?}"),
    }
}

/// A number that tells inputs apart, as far as a hash of the story needs it.
pub(super) fn word_of(input: &Input) -> u64 {
    match input {
        Input::Message { from, message } => {
            let (kind, number) = match message {
                Message::Stop { view, .. } => (1, view.0),
                Message::Evidence(evidence) => {
                    let recorded = evidence.recorded.map_or(u64::MAX, |epoch| epoch.0);
                    (2, evidence.view.0 ^ mix(recorded ^ evidence.copies.len() as u64))
                }
                Message::ViewCreated { number } => (3, number.0),
                Message::Done => (4, 0),
                _ => (5, 0),
            };
            mix(from.0 << 8 | kind) ^ number
        }
        Input::Register(RegisterReply::Read { number, view, done }) => {
            mix(number.0 << 2 | u64::from(view.is_some()) << 1 | u64::from(*done))
        }
        Input::GenerationStopped { view, evidence, .. }
        | Input::EvidenceGrown { view, evidence, .. } => {
            mix(view.0) ^ evidence.recorded.map_or(u64::MAX, |epoch| epoch.0)
        }
        Input::GenerationRunning { view } | Input::GenerationFinished { view } => view.0,
        _ => 0,
    }
}
