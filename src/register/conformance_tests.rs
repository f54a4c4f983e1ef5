//! What every register promises, run against each of them.

use std::sync::Barrier;

use ringfence_operators::ids::{Incarnation, NodeId};

use super::*;
use crate::protocol::view::Member;

fn record(run: &str) -> RunRecord {
    let cluster = ClusterShape { nodes: 2, workers_per_node: 1, partitions: 4, backups: 1 };
    RunRecord { run: run.to_owned(), job: "job".to_owned(), cluster }
}

/// A view that is valid by itself; `incarnation` tells rivals apart.
fn view(run: &str, number: u64, incarnation: u64) -> View {
    let member = |node| Member {
        node: NodeId(node),
        incarnation: Incarnation(incarnation),
        address: "127.0.0.1:1".to_owned(),
        evidence: None,
    };
    let mut view = View::first(run, vec![member(0), member(1)], &record(run).cluster);
    if number > 1 {
        view.previous = Some(view.digest());
        view.number = ViewNumber(number);
        for member in &mut view.members {
            member.evidence = Some(crate::protocol::view::Evidence {
                view: ViewNumber(number - 1),
                recorded: None,
                copies: Vec::new(),
                operators: Vec::new(),
                journals: false,
                dropped: Vec::new(),
            });
        }
    }
    view
}

fn conforms(fresh: &dyn Fn() -> Box<dyn Register>) {
    the_first_to_open_names_the_run(&*fresh());
    other_jobs_and_clusters_are_refused(&*fresh());
    a_view_is_created_once(&*fresh());
    views_have_no_gaps(&*fresh());
    done_stays_done(&*fresh());
    a_machine_is_answered(&*fresh());
    for _ in 0..20 {
        one_of_many_creators_wins(&*fresh());
    }
}

fn the_first_to_open_names_the_run(register: &dyn Register) {
    assert_eq!(register.open_run(&record("a")).unwrap().run, "a");
    assert_eq!(register.open_run(&record("b")).unwrap().run, "a");
}

fn other_jobs_and_clusters_are_refused(register: &dyn Register) {
    register.open_run(&record("a")).unwrap();
    let error =
        register.open_run(&RunRecord { job: "other".to_owned(), ..record("b") }).unwrap_err();
    assert!(matches!(error, RegisterError::OtherJob { .. }), "{error}");
    assert!(error.to_string().contains("or use a fresh register"), "{error}");
    let mut wide = record("b");
    wide.cluster.nodes = 3;
    assert!(matches!(register.open_run(&wide), Err(RegisterError::OtherCluster { .. })));
    assert!(matches!(register.create_view(&view("b", 1, 0)), Err(RegisterError::OtherRun { .. })));
    let done = DoneRecord { run: "b".to_owned(), view: ViewNumber(1) };
    assert!(matches!(register.mark_done(&done), Err(RegisterError::OtherRun { .. })));
}

fn a_view_is_created_once(register: &dyn Register) {
    register.open_run(&record("a")).unwrap();
    assert_eq!(register.read_view(ViewNumber(1)).unwrap(), None);
    assert_eq!(register.latest().unwrap(), None);
    assert_eq!(register.create_view(&view("a", 1, 7)).unwrap(), Creation::Created);
    assert_eq!(register.create_view(&view("a", 1, 8)).unwrap(), Creation::Exists);
    assert_eq!(register.create_view(&view("a", 1, 7)).unwrap(), Creation::Exists);
    assert_eq!(register.read_view(ViewNumber(1)).unwrap(), Some(view("a", 1, 7)));
}

fn views_have_no_gaps(register: &dyn Register) {
    assert!(
        matches!(register.create_view(&view("a", 1, 0)), Err(RegisterError::Gap { .. })),
        "no run yet"
    );
    register.open_run(&record("a")).unwrap();
    assert!(matches!(register.create_view(&view("a", 2, 0)), Err(RegisterError::Gap { .. })));
    for number in 1..=9 {
        assert_eq!(register.create_view(&view("a", number, 0)).unwrap(), Creation::Created);
        assert_eq!(register.latest().unwrap(), Some(ViewNumber(number)));
    }
    assert!(matches!(register.create_view(&view("a", 11, 0)), Err(RegisterError::Gap { .. })));
}

fn done_stays_done(register: &dyn Register) {
    register.open_run(&record("a")).unwrap();
    assert!(!register.done().unwrap());
    let done = DoneRecord { run: "a".to_owned(), view: ViewNumber(1) };
    register.mark_done(&done).unwrap();
    register.mark_done(&DoneRecord { view: ViewNumber(2), ..done }).unwrap();
    assert!(register.done().unwrap());
    let error = register.open_run(&record("a")).unwrap_err();
    assert!(matches!(error, RegisterError::Done { .. }), "{error}");
    assert!(!error.is_transient());
}

fn a_machine_is_answered(register: &dyn Register) {
    register.open_run(&record("a")).unwrap();
    let number = ViewNumber(1);
    let ask = |output| answer(register, "a", &output).unwrap();
    assert_eq!(
        ask(Output::ReadView(number)),
        RegisterReply::Read { number, view: None, done: false }
    );
    assert_eq!(ask(Output::Propose(view("a", 1, 1))), RegisterReply::Created { number });
    assert_eq!(ask(Output::Propose(view("a", 1, 2))), RegisterReply::Exists { number });
    assert_eq!(ask(Output::MarkDone(number)), RegisterReply::DoneMarked);
    let view = Some(view("a", 1, 1));
    assert_eq!(ask(Output::ReadView(number)), RegisterReply::Read { number, view, done: true });
    assert_eq!(answer(register, "a", &Output::Finish), None);
    let other = answer(register, "b", &Output::MarkDone(number));
    assert!(matches!(other, Some(RegisterReply::Unusable { .. })), "{other:?}");
}

fn one_of_many_creators_wins(register: &dyn Register) {
    const RIVALS: u64 = 8;
    let barrier = Barrier::new(RIVALS as usize);
    let results: Vec<(u64, String, Creation)> = std::thread::scope(|scope| {
        let rival = |incarnation| {
            let barrier = &barrier;
            scope.spawn(move || {
                barrier.wait();
                let run = register.open_run(&record(&format!("run-{incarnation}"))).unwrap().run;
                let created = register.create_view(&view(&run, 1, incarnation)).unwrap();
                (incarnation, run, created)
            })
        };
        let rivals: Vec<_> = (0..RIVALS).map(rival).collect();
        rivals.into_iter().map(|rival| rival.join().unwrap()).collect()
    });
    assert!(results.iter().all(|(_, run, _)| *run == results[0].1), "one run for all");
    let winners: Vec<_> =
        results.iter().filter(|(.., created)| *created == Creation::Created).collect();
    assert_eq!(winners.len(), 1);
    let stored = register.read_view(ViewNumber(1)).unwrap().unwrap();
    assert_eq!(stored.members[0].incarnation, Incarnation(winners[0].0));
}

#[test]
fn memory_conforms() {
    conforms(&|| Box::new(MemoryRegister::new()));
}

#[test]
fn directory_conforms() {
    let base = tempfile::tempdir().unwrap();
    let number = std::cell::Cell::new(0);
    conforms(&|| {
        number.set(number.get() + 1);
        Box::new(DirectoryRegister::open(base.path().join(number.get().to_string())).unwrap())
    });
}

/// Two handles on one directory are one register, and no temporary file stays behind.
#[test]
fn a_directory_is_read_by_others() {
    let base = tempfile::tempdir().unwrap();
    let [one, two] = [0, 1].map(|_| DirectoryRegister::open(base.path()).unwrap());
    one.open_run(&record("a")).unwrap();
    one.create_view(&view("a", 1, 1)).unwrap();
    assert_eq!(two.read_view(ViewNumber(1)).unwrap(), Some(view("a", 1, 1)));
    assert_eq!(two.create_view(&view("a", 1, 2)).unwrap(), Creation::Exists);
    let names = |path: &std::path::Path| -> Vec<String> {
        let mut names: Vec<_> = std::fs::read_dir(path)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    assert_eq!(names(base.path()), ["run.json", "views"]);
    assert_eq!(names(&base.path().join("views")), ["00000001.json"]);
}

#[test]
fn garbage_is_named() {
    let base = tempfile::tempdir().unwrap();
    let register = DirectoryRegister::open(base.path()).unwrap();
    let garbage = |name: &str, text: &str| std::fs::write(base.path().join(name), text).unwrap();
    garbage("run.json", "{\"run\":");
    let error = register.open_run(&record("a")).unwrap_err();
    assert!(
        matches!(error, RegisterError::Damaged { .. }) && error.to_string().contains("run.json"),
        "{error}"
    );
    std::fs::remove_file(base.path().join("run.json")).unwrap();

    register.open_run(&record("a")).unwrap();
    garbage("views/00000001.json", &serde_json::to_string(&view("a", 2, 0)).unwrap());
    let error = register.read_view(ViewNumber(1)).unwrap_err().to_string();
    assert!(error.contains("00000001.json") && error.contains("it holds view 2"), "{error}");
    garbage("views/00000001.json", &serde_json::to_string(&view("b", 1, 0)).unwrap());
    assert!(matches!(register.read_view(ViewNumber(1)), Err(RegisterError::OtherRun { .. })));
    let mut empty = view("a", 1, 0);
    empty.assignment.places.clear();
    garbage("views/00000001.json", &serde_json::to_string(&empty).unwrap());
    let error = register.read_view(ViewNumber(1)).unwrap_err().to_string();
    assert!(error.contains("0 partitions, expected 4"), "{error}");
    garbage("done.json", "yes");
    assert!(register.done().unwrap_err().to_string().contains("done.json"));
    std::fs::remove_file(base.path().join("done.json")).unwrap();
    std::fs::create_dir(base.path().join("done.json")).unwrap();
    assert!(register.done().unwrap_err().to_string().contains("not a file"));
}

/// Whatever is asked while the directory is away, the answer is none, and afterwards all is as before.
#[test]
fn a_directory_that_is_away_does_not_answer() {
    let place = tempfile::tempdir().unwrap();
    let (here, away) = (place.path().join("register"), place.path().join("away"));
    let register = DirectoryRegister::open(&here).unwrap();
    register.open_run(&record("a")).unwrap();
    assert_eq!(register.create_view(&view("a", 1, 1)).unwrap(), Creation::Created);
    let done = DoneRecord { run: "a".to_owned(), view: ViewNumber(1) };
    let move_away = || std::fs::rename(&here, &away).unwrap();
    // Nothing, and an empty directory, as where a file system is not mounted.
    for is_empty in [false, true] {
        move_away();
        if is_empty {
            std::fs::create_dir_all(here.join("views")).unwrap();
        }
        let transient = |error: RegisterError| assert!(error.is_transient(), "{error}");
        transient(register.open_run(&record("b")).unwrap_err());
        transient(register.create_view(&view("a", 2, 1)).unwrap_err());
        transient(register.read_view(ViewNumber(1)).unwrap_err());
        transient(register.read_view(ViewNumber(2)).unwrap_err());
        transient(register.latest().unwrap_err());
        transient(register.done().unwrap_err());
        transient(register.mark_done(&done).unwrap_err());
        if is_empty {
            std::fs::remove_dir_all(&here).unwrap();
        }
        std::fs::rename(&away, &here).unwrap();
        assert_eq!(register.latest().unwrap(), Some(ViewNumber(1)));
        assert_eq!(register.read_view(ViewNumber(2)).unwrap(), None);
        assert!(!register.done().unwrap());
    }
    assert_eq!(register.create_view(&view("a", 2, 1)).unwrap(), Creation::Created);
}

/// A disk that is full or read-only is waited for; a file that is torn is named.
#[test]
fn a_register_that_cannot_be_written_does_not_answer_and_a_torn_file_is_named() {
    let place = tempfile::tempdir().unwrap();
    let register = DirectoryRegister::open(place.path()).unwrap();
    register.open_run(&record("a")).unwrap();
    register.create_view(&view("a", 1, 1)).unwrap();
    // As root may write everywhere: the directory of the views is no directory for a while.
    let (views, kept) = (place.path().join("views"), place.path().join("kept"));
    std::fs::rename(&views, &kept).unwrap();
    std::fs::write(&views, "in the way").unwrap();
    let error = register.create_view(&view("a", 2, 1)).unwrap_err();
    assert!(error.is_transient(), "{error}");
    std::fs::remove_file(&views).unwrap();
    std::fs::rename(&kept, &views).unwrap();
    let file = views.join("00000001.json");
    let text = std::fs::read(&file).unwrap();
    std::fs::write(&file, &text[..text.len() / 2]).unwrap();
    let error = register.read_view(ViewNumber(1)).unwrap_err();
    assert!(!error.is_transient() && error.to_string().contains("00000001.json"), "{error}");
}
