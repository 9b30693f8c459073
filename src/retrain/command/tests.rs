use std::fs;
use std::path::Path;
use std::time::Instant;

use super::super::Artifact;
use super::super::jobs::tests::settled;
use super::super::train_fn::tests::job;
use super::*;

fn job_in(directory: &Path, key: &str) -> TrainJob {
    TrainJob { directory: Some(directory.to_owned()), ..job(key) }
}

fn run(trainer: &mut CommandTrainer, directory: &Path) -> JobStatus<Trained> {
    trainer.start(job_in(directory, "k")).unwrap();
    settled(|| trainer.poll("k").unwrap())
}

fn failure(status: JobStatus<Trained>) -> (String, String) {
    let JobStatus::Failed { reason, log } = status else { panic!("it must fail: {status:?}") };
    (reason, log)
}

fn artifact(status: JobStatus<Trained>) -> PathBuf {
    let JobStatus::Done(Trained { artifact: Artifact::File(path), .. }) = status else {
        panic!("it must succeed: {status:?}")
    };
    path
}

/// Waits until no process of this mark is left, and says whether that came about.
fn gone(marks: &Path) -> bool {
    let pid = fs::read_to_string(marks).unwrap();
    let ended = || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", pid.trim()));
        stat.map_or(true, |stat| stat.contains(") Z "))
    };
    (0..500).any(|_| ended() || (std::thread::sleep(Duration::from_millis(10)), false).1)
}

fn wait_for(path: &Path) {
    let begun = Instant::now();
    while fs::read_to_string(path).map_or(true, |text| text.is_empty()) {
        assert!(begun.elapsed() < Duration::from_secs(20), "{} was never written", path.display());
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Starts a grandchild, which a plain kill of the shell would leave behind, and writes its number to `pid`.
const LINGER: &str = r#"sleep 600 & echo $! > "$MARK"; wait"#;

#[test]
fn the_command_finds_its_orders_and_leaves_an_artifact() {
    let directory = tempfile::tempdir().unwrap();
    let script = r#"echo training; echo warning >&2
        cp "$FEEDLOOP_DATA" "$FEEDLOOP_OUTPUT/model.bin"; cp "$FEEDLOOP_MANIFEST" "$FEEDLOOP_OUTPUT/manifest"
        printf %s "$FEEDLOOP_KEY" > "$FEEDLOOP_OUTPUT/key""#;
    let mut trainer = CommandTrainer::new(script).artifact("model.bin");
    let done = run(&mut trainer, directory.path());
    let JobStatus::Done(trained) = &done else { panic!("{done:?}") };
    assert_eq!(trained.log, "training\nwarning\n");
    let path = artifact(done);
    assert_eq!(path, directory.path().join("output-1/model.bin"));
    let data = fs::read_to_string(&path).unwrap();
    assert_eq!(data.lines().nth(1).unwrap(), r#"{"label":"yes","row":{"x0":1.5},"weight":1.0}"#);
    assert_eq!(fs::read_to_string(path.with_file_name("key")).unwrap(), "k");
    let manifest: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(path.with_file_name("manifest")).unwrap()).unwrap();
    assert_eq!((&manifest["recipe"], &manifest["seed"], &manifest["rows"]), (&"all".into(), &7.into(), &2.into()));
    assert_eq!(manifest["schema"]["fields"][0]["name"], "x0");
}

#[test]
fn a_failure_shows_the_code_and_the_end_of_the_log() {
    let directory = tempfile::tempdir().unwrap();
    let mut trainer = CommandTrainer::new("seq 1 40000; echo the end; exit 3");
    let (reason, log) = failure(run(&mut trainer, directory.path()));
    assert_eq!(reason, "the command ended with exit status: 3");
    assert!(log.ends_with("40000\nthe end\n") && log.len() == 64 * 1024);
    assert!(fs::read_to_string(directory.path().join("train.log")).unwrap().starts_with("1\n2\n"), "the log is whole");
    let mut missing = CommandTrainer::program("/no/such/program", [""; 0]);
    assert!(failure(run(&mut missing, directory.path())).0.contains("cannot run /no/such/program"));
}

#[test]
fn success_without_an_artifact_is_a_failure() {
    let directory = tempfile::tempdir().unwrap();
    let (reason, _) = failure(run(&mut CommandTrainer::new("true"), directory.path()));
    assert!(reason.contains("wrote no artifact to") && reason.ends_with("output-1/model"), "{reason}");
}

#[test]
fn an_empty_artifact_is_none() {
    let directory = tempfile::tempdir().unwrap();
    for script in [r#"touch "$FEEDLOOP_OUTPUT/model""#, r#"mkdir "$FEEDLOOP_OUTPUT/model""#] {
        let (reason, _) = failure(run(&mut CommandTrainer::new(script), directory.path()));
        assert!(reason.contains("the command succeeded but its artifact") && reason.ends_with("is empty"), "{reason}");
    }
    let script = r#"mkdir "$FEEDLOOP_OUTPUT/model"; touch "$FEEDLOOP_OUTPUT/model/weights""#;
    let path = artifact(run(&mut CommandTrainer::new(script), directory.path()));
    assert!(path.join("weights").exists(), "what is in a directory is the trainer's business");
}

#[test]
fn a_command_that_fails_is_tried_again_with_an_output_of_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let script = r#"echo attempt; echo run >> "$COUNT"; [ "$(wc -l < "$COUNT")" -ge 3 ] || exit 75
        echo m > "$FEEDLOOP_OUTPUT/model""#;
    let trainer = |count: &str| {
        CommandTrainer::new(script).env("COUNT", directory.path().join(count)).back_off(Duration::from_millis(1))
    };
    let (reason, log) = failure(run(&mut trainer("a").retries(1), directory.path()));
    assert_eq!(reason, "the command ended with exit status: 75, at 2 attempts");
    assert_eq!(log, "attempt\nattempt\n");
    let done = run(&mut trainer("b").retries(5), directory.path());
    assert_eq!(artifact(done), directory.path().join("output-5/model"));
    let manifest: serde_json::Value =
        serde_json::from_slice(&fs::read(directory.path().join("job.json")).unwrap()).unwrap();
    assert_eq!(manifest["attempt"], 5);
}

#[test]
fn time_and_cancellation_are_not_tried_again() {
    let directory = tempfile::tempdir().unwrap();
    let count = directory.path().join("count");
    let script = r#"echo run >> "$COUNT"; sleep 600"#;
    let mut trainer = CommandTrainer::new(script).env("COUNT", &count).retries(3).timeout(Duration::from_millis(400));
    failure(run(&mut trainer, directory.path()));
    assert!(fs::read_to_string(&count).unwrap_or_default().lines().count() <= 1);

    let failing = CommandTrainer::new("exit 1").retries(1_000).back_off(Duration::from_secs(60));
    let mut trainer = failing;
    trainer.start(job_in(directory.path(), "c")).unwrap();
    wait_for(&directory.path().join("job.json"));
    let signal = trainer.jobs.signal("c");
    trainer.cancel("c").unwrap();
    assert!((0..500).any(|_| signal.over() || (std::thread::sleep(Duration::from_millis(10)), false).1), "it waits");
}

#[test]
fn nothing_that_a_command_started_outlives_it() {
    let directory = tempfile::tempdir().unwrap();
    let mark = directory.path().join("grandchild");
    for end in ["exit 1", r#"echo m > "$FEEDLOOP_OUTPUT/model""#] {
        let script = format!(r#"sleep 600 & echo $! > "$MARK"; {end}"#);
        run(&mut CommandTrainer::new(script).env("MARK", &mark), directory.path());
        assert!(gone(&mark));
    }
}

#[test]
#[cfg(target_os = "linux")]
fn what_a_crashed_host_left_running_is_killed_before_the_job_begins_anew() {
    let directory = tempfile::tempdir().unwrap();
    let mark = directory.path().join("mark");
    // A host that crashed: its command goes on in a group of its own, and nobody waits for it.
    let mut orphan = std::process::Command::new("sh");
    orphan.args(["-c", LINGER]).env("MARK", &mark).env("FEEDLOOP_OUTPUT", directory.path().join("output-1"));
    let mut orphan = std::os::unix::process::CommandExt::process_group(&mut orphan, 0).spawn().unwrap();
    wait_for(&mark);
    fs::write(directory.path().join("train.pid"), orphan.id().to_string()).unwrap();
    artifact(run(&mut CommandTrainer::new(r#"echo m > "$FEEDLOOP_OUTPUT/model""#), directory.path()));
    assert!(gone(&mark));
    orphan.wait().unwrap();

    // Somebody else's process that has the number by now is left alone.
    let mut stranger = std::process::Command::new("sleep").arg("600").spawn().unwrap();
    fs::write(directory.path().join("train.pid"), stranger.id().to_string()).unwrap();
    artifact(run(&mut CommandTrainer::new("false"), directory.path()));
    assert!(stranger.try_wait().unwrap().is_none());
    stranger.kill().unwrap();
    stranger.wait().unwrap();
}

#[test]
fn a_log_without_end_is_cut() {
    let directory = tempfile::tempdir().unwrap();
    let script = r#"yes line | head -c 20000000; sleep 0.2; echo the end; exit 1"#;
    let (_, log) = failure(run(&mut CommandTrainer::new(script), directory.path()));
    assert!(log.ends_with("the end\n"));
    let kept = fs::read_to_string(directory.path().join("train.log")).unwrap();
    // The command writes while the log is cut: lines of its own may stand before the mark.
    assert!(kept.contains(" bytes were cut]") && kept.len() < 9_000_000, "{} bytes", kept.len());
}

#[test]
fn another_jobs_artifact_in_the_same_directory_is_not_taken_for_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let script = r#"cp "$FEEDLOOP_DATA" "$FEEDLOOP_OUTPUT/model""#;
    let first = artifact(run(&mut CommandTrainer::new(script), directory.path()));
    let mut other = job_in(directory.path(), "k");
    other.dataset.digest = "another store's".into();
    let mut trainer = CommandTrainer::new(script);
    trainer.start(other).unwrap();
    assert_ne!(artifact(settled(|| trainer.poll("k").unwrap())), first);
}

#[test]
fn without_a_directory_it_says_so() {
    let error = CommandTrainer::new("true").start(job("k")).unwrap_err();
    assert!(error.to_string().contains("give the pipeline a working directory"));
}

#[test]
fn a_finished_job_is_not_run_again_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let script = r#"echo run >> "$COUNT"; echo m > "$FEEDLOOP_OUTPUT/model""#;
    let count = directory.path().join("count");
    let trainer = || CommandTrainer::new(script).env("COUNT", &count);
    let first = artifact(run(&mut trainer(), directory.path()));
    let mut restarted = trainer();
    assert_eq!(restarted.poll("k").unwrap(), JobStatus::Unknown);
    assert_eq!(artifact(run(&mut restarted, directory.path())), first);
    assert_eq!(fs::read_to_string(&count).unwrap(), "run\n");

    fs::remove_file(first).unwrap();
    assert_eq!(artifact(run(&mut trainer(), directory.path())), directory.path().join("output-2/model"));
    assert_eq!(fs::read_to_string(&count).unwrap(), "run\nrun\n", "a lost artifact is made again");
}

#[test]
fn starting_an_ended_job_before_it_was_reported_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let mut trainer = CommandTrainer::new("exit 1");
    for _ in 0..2 {
        trainer.start(job_in(directory.path(), "k")).unwrap();
        let signal = trainer.jobs.signal("k");
        assert!((0..500).any(|_| signal.over() || (std::thread::sleep(Duration::from_millis(10)), false).1));
        trainer.start(job_in(directory.path(), "k")).unwrap();
        assert_eq!(failure(settled(|| trainer.poll("k").unwrap())).0, "the command ended with exit status: 1");
        assert_eq!(trainer.poll("k").unwrap(), JobStatus::Unknown);
    }
}

#[test]
fn the_time_limit_kills_the_whole_group() {
    let directory = tempfile::tempdir().unwrap();
    let mark = directory.path().join("pid");
    let mut trainer = CommandTrainer::new(LINGER).env("MARK", &mark).timeout(Duration::from_millis(500));
    let (reason, _) = failure(run(&mut trainer, directory.path()));
    assert_eq!(reason, "the command was killed after 500ms");
    assert!(gone(&mark));
}

#[test]
fn cancelling_and_dropping_kill_the_whole_group() {
    for cancel in [true, false] {
        let directory = tempfile::tempdir().unwrap();
        let mark = directory.path().join("pid");
        let mut trainer = CommandTrainer::new(LINGER).env("MARK", &mark);
        trainer.start(job_in(directory.path(), "k")).unwrap();
        trainer.start(job_in(directory.path(), "k")).unwrap();
        wait_for(&mark);
        assert_eq!(trainer.poll("k").unwrap(), JobStatus::Running);
        let signal = trainer.jobs.signal("k");
        if cancel {
            trainer.cancel("k").unwrap();
            trainer.cancel("unknown").unwrap();
            assert_eq!(trainer.poll("k").unwrap(), JobStatus::Unknown);
        }
        drop(trainer);
        assert!(gone(&mark));
        assert!((0..500).any(|_| signal.over() || (std::thread::sleep(Duration::from_millis(10)), false).1));
    }
}

#[test]
fn a_cancelled_job_can_be_started_again() {
    let directory = tempfile::tempdir().unwrap();
    let script = r#"if [ -e "$MARK" ]; then echo m > "$FEEDLOOP_OUTPUT/model"; else echo $$ > "$MARK"; sleep 600; fi"#;
    let mark = directory.path().join("pid");
    let mut trainer = CommandTrainer::new(script).env("MARK", &mark);
    trainer.start(job_in(directory.path(), "k")).unwrap();
    wait_for(&mark);
    trainer.cancel("k").unwrap();
    assert_eq!(artifact(run(&mut trainer, directory.path())), directory.path().join("output-2/model"));
    assert!(gone(&mark));
}
