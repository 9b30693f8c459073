use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Mutex;
use std::thread;

use serde_json::Value;

use super::super::Artifact;
use super::super::jobs::tests::settled;
use super::super::train_fn::tests::job;
use super::*;

/// A request as the service sees it.
#[derive(Debug, Clone)]
struct Request {
    method: String,
    path: String,
    headers: BTreeMap<String, String>,
    body: String,
}

impl Request {
    fn is(&self, method: &str, end: &str) -> bool {
        self.method == method && self.path.ends_with(end)
    }
}

/// What a service does with a request.
enum Reply {
    Answer(u16, Vec<u8>),
    /// Nothing at all, until the client gives up.
    Hang,
    /// The connection is closed without an answer.
    Close,
}

fn answer(status: u16, body: &str) -> Reply {
    Reply::Answer(status, body.as_bytes().to_vec())
}

/// A service on the loopback interface that answers by a closure and remembers every request.
struct Service {
    address: String,
    seen: Arc<Mutex<Vec<Request>>>,
}

impl Service {
    fn new(reply: impl Fn(&Request, &[Request]) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}/jobs", listener.local_addr().unwrap());
        let seen: Arc<Mutex<Vec<Request>>> = Arc::default();
        let (remembered, reply) = (seen.clone(), Arc::new(reply));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (remembered, reply) = (remembered.clone(), reply.clone());
                thread::spawn(move || serve(stream.unwrap(), &remembered, &*reply));
            }
        });
        Service { address, seen }
    }

    /// One that trains at once: the model is a text.
    fn good() -> Self {
        Service::new(|request, _| match request {
            request if request.is("POST", "/jobs") => answer(202, ""),
            request if request.is("GET", "/artifact") => answer(200, "a model"),
            request if request.is("GET", "") => answer(200, r#"{"status": "done", "log": "3 rounds"}"#),
            _ => answer(500, "unexpected"),
        })
    }

    fn trainer(&self) -> HttpTrainer {
        let fast = Duration::from_millis(10);
        HttpTrainer::new(&*self.address).poll_every(fast).back_off(fast).request_timeout(Duration::from_secs(5))
    }

    fn seen(&self) -> Vec<Request> {
        self.seen.lock().unwrap().clone()
    }

    fn count(&self, method: &str, end: &str) -> usize {
        self.seen().iter().filter(|request| request.is(method, end)).count()
    }

    /// Waits until such a request was made.
    fn await_request(&self, method: &str, end: &str) {
        assert!((0..1_000).any(|_| self.count(method, end) > 0 || (thread::sleep(Duration::from_millis(10)), false).1));
    }
}

fn serve(stream: TcpStream, seen: &Mutex<Vec<Request>>, reply: &dyn Fn(&Request, &[Request]) -> Reply) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    let mut words = line.split_whitespace();
    let (Some(method), Some(path)) = (words.next(), words.next()) else { return };
    let (method, path) = (method.to_owned(), path.to_owned());
    let mut headers = BTreeMap::new();
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).unwrap();
        let Some((name, value)) = header.trim().split_once(": ") else { break };
        headers.insert(name.to_lowercase(), value.to_owned());
    }
    let length = headers.get("content-length").map_or(0, |length: &String| length.parse().unwrap());
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    let request = Request { method, path, headers, body: String::from_utf8(body).unwrap() };
    let reply = {
        let mut seen = seen.lock().unwrap();
        seen.push(request.clone());
        reply(&request, &seen)
    };
    let mut stream = stream;
    match reply {
        Reply::Answer(status, body) => {
            let head = format!("HTTP/1.1 {status} x\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body));
        }
        Reply::Hang => {
            let _ = reader.read(&mut [0]);
        }
        Reply::Close => {}
    }
}

fn run(trainer: &mut HttpTrainer) -> JobStatus<Trained> {
    trainer.start(job("run-1-all")).unwrap();
    settled(|| trainer.poll("run-1-all").unwrap())
}

fn failure(status: JobStatus<Trained>) -> String {
    let JobStatus::Failed { reason, .. } = status else { panic!("it must fail: {status:?}") };
    reason
}

fn done() -> JobStatus<Trained> {
    JobStatus::Done(Trained { artifact: Artifact::Inline(b"a model".to_vec()), log: "3 rounds".into() })
}

#[test]
fn a_job_is_described_followed_and_its_artifact_downloaded() {
    let service = Service::good();
    let mut trainer = service.trainer().bearer("secret");
    trainer.start(job("run-1-all")).unwrap();
    trainer.start(job("run-1-all")).unwrap();
    assert_eq!(settled(|| trainer.poll("run-1-all").unwrap()), done());
    assert_eq!(trainer.poll("run-1-all").unwrap(), JobStatus::Unknown);

    let seen = service.seen();
    let (job, digest) = (job("run-1-all"), job("run-1-all").data.digest());
    let name = format!("run-1-all-{}", &digest[..16]);
    let paths: Vec<_> = seen.iter().map(|request| format!("{} {}", request.method, request.path)).collect();
    assert_eq!(paths, ["POST /jobs".into(), format!("GET /jobs/{name}"), format!("GET /jobs/{name}/artifact")]);
    assert!(seen.iter().all(|request| request.headers["authorization"] == "Bearer secret"));
    assert_eq!(seen[0].headers["idempotency-key"], name);
    let description: Value = serde_json::from_str(&seen[0].body).unwrap();
    assert_eq!((&description["key"], &description["name"]), (&"run-1-all".into(), &name.into()));
    assert_eq!(
        (&description["rows"], &description["seed"], &description["digest"]),
        (&2.into(), &7.into(), &digest.into())
    );
    assert_eq!(description["lines"][1].to_string(), r#"{"label":"yes","row":{"x0":1.5},"weight":1.0}"#);
    assert_eq!(description["dataset"]["schema"], job.data.schema().fingerprint());
}

#[test]
fn with_a_directory_the_rows_and_the_artifact_are_files() {
    let directory = tempfile::tempdir().unwrap();
    let model = directory.path().join("model");
    let answered = format!(r#"{{"status": "done", "artifact": {model:?}}}"#);
    let service = Service::new(move |request, _| match request {
        request if request.is("GET", "") => answer(200, &answered),
        _ => answer(200, ""),
    });
    let mut trainer = service.trainer();
    let job = || TrainJob { directory: Some(directory.path().join("job")), ..job("run-1-all") };
    trainer.start(job()).unwrap();
    let missing = failure(settled(|| trainer.poll("run-1-all").unwrap()));
    assert!(missing.contains("which is not there"), "{missing}");

    std::fs::write(&model, "m").unwrap();
    trainer.start(job()).unwrap();
    let JobStatus::Done(trained) = settled(|| trainer.poll("run-1-all").unwrap()) else { panic!("it must succeed") };
    assert_eq!(trained.artifact, Artifact::File(model));
    let description: Value = serde_json::from_str(&service.seen()[0].body).unwrap();
    assert!(description["lines"].is_null());
    let data = std::fs::read_to_string(description["data"][0].as_str().unwrap()).unwrap();
    assert_eq!(data.lines().count(), 2);
}

#[test]
fn errors_of_the_server_are_tried_again_and_those_of_the_client_are_not() {
    let service = Service::new(|request, seen| match request {
        _ if seen.len() % 3 == 1 => answer(503, "later"),
        _ if seen.len() % 3 == 2 => Reply::Close,
        request if request.is("GET", "/artifact") => answer(200, "a model"),
        request if request.is("GET", "") => answer(200, r#"{"status": "done", "log": "3 rounds"}"#),
        _ => answer(202, ""),
    });
    assert_eq!(run(&mut service.trainer()), done());
    assert_eq!(service.seen().len(), 9);
    let names: Vec<_> = service.seen().iter().filter_map(|r| r.headers.get("idempotency-key").cloned()).collect();
    assert!(names.len() == 3 && names.iter().all(|name| *name == names[0]), "one job, however often it was asked for");

    let down = Service::new(|_, _| answer(500, "out of memory"));
    let why = failure(run(&mut down.trainer().retries(2)));
    assert_eq!(why, "the service cannot be used: HTTP status 500: out of memory, at 3 requests");

    let strict = Service::new(|_, _| answer(401, "who are you?"));
    let why = failure(run(&mut strict.trainer()));
    assert_eq!(why, "the service does not take the job: HTTP status 401: who are you?");
    assert_eq!(strict.count("POST", ""), 1);
}

#[test]
fn a_service_that_is_not_there_fails_the_job() {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut trainer = HttpTrainer::new(format!("http://{address}")).retries(1).back_off(Duration::from_millis(1));
    let why = failure(run(&mut trainer));
    assert!(why.starts_with("the service cannot be used: ") && why.ends_with("at 2 requests"), "{why}");
    let mut trainer = HttpTrainer::new("http://no host/");
    assert!(failure(run(&mut trainer)).starts_with("the service cannot be used: "));
}

#[test]
fn a_service_that_hangs_is_given_up() {
    let service = Service::new(|_, _| Reply::Hang);
    let mut trainer = service.trainer().request_timeout(Duration::from_millis(100)).retries(1);
    let why = failure(run(&mut trainer));
    assert!(why.contains("timeout") && why.ends_with("at 2 requests"), "{why}");
}

#[test]
fn what_is_no_status_of_a_job_fails_it() {
    for said in ["{\"status\": \"do", "<html>", r#"{"status": "sleeping"}"#, r#"{"done": true}"#, ""] {
        let service = Service::new(move |request, _| answer(200, if request.method == "GET" { said } else { "" }));
        let why = failure(run(&mut service.trainer()));
        assert!(why.starts_with("the service says what is no status of a job: HTTP status 200"), "{why}");
        service.await_request("DELETE", "");
    }
}

#[test]
fn a_failed_training_shows_reason_and_log() {
    let service = Service::new(|request, _| match &*request.method {
        "GET" => answer(200, r#"{"status": "failed", "reason": "singular", "log": "round 1"}"#),
        _ => answer(200, ""),
    });
    let failed = JobStatus::Failed { reason: "the service failed: singular".into(), log: "round 1".into() };
    assert_eq!(run(&mut service.trainer()), failed);
}

#[test]
fn an_artifact_that_is_too_large_or_empty_fails_the_job() {
    let why = failure(run(&mut Service::good().trainer().most_bytes(6)));
    assert_eq!(why, "the service cannot be used: the answer has more than 6 bytes");
    assert_eq!(run(&mut Service::good().trainer().most_bytes(7)), done());
    let empty = Service::new(|request, _| match request {
        request if request.is("GET", "/artifact") => answer(200, ""),
        _ => answer(200, r#"{"status": "done"}"#),
    });
    assert_eq!(failure(run(&mut empty.trainer())), "the artifact is empty");
}

#[test]
fn a_job_that_the_service_forgot_is_started_again_under_its_name() {
    let service = Service::new(|request, seen| {
        let starts = seen.iter().filter(|request| request.method == "POST").count();
        match request {
            request if request.is("POST", "") => answer(if starts > 1 { 409 } else { 201 }, ""),
            request if request.is("GET", "/artifact") => answer(200, "a model"),
            _ if starts < 2 => answer(404, ""),
            _ => answer(200, r#"{"status": "done", "log": "3 rounds"}"#),
        }
    });
    assert_eq!(run(&mut service.trainer()), done());
    assert_eq!(service.count("POST", ""), 2);
    let forgetful = Service::new(|request, _| answer(if request.method == "POST" { 201 } else { 404 }, ""));
    let why = failure(run(&mut forgetful.trainer().retries(2)));
    assert_eq!(why, "the service has forgotten the job 3 times");
}

fn running() -> Service {
    Service::new(|_, _| answer(200, r#"{"status": "running"}"#))
}

#[test]
fn a_cancelled_job_and_one_that_takes_too_long_are_ended_at_the_service() {
    let service = running();
    let mut trainer = service.trainer();
    trainer.start(job("run-1-all")).unwrap();
    service.await_request("GET", "");
    assert_eq!(trainer.poll("run-1-all").unwrap(), JobStatus::Running);
    trainer.cancel("run-1-all").unwrap();
    trainer.cancel("unknown").unwrap();
    assert_eq!(trainer.poll("run-1-all").unwrap(), JobStatus::Unknown);
    service.await_request("DELETE", "");

    let service = running();
    let why = failure(run(&mut service.trainer().timeout(Duration::from_millis(200))));
    assert!(why.contains("200ms") || why.contains("timeout"), "{why}");
    service.await_request("DELETE", "");
}

#[test]
fn a_host_that_ends_leaves_its_job_and_finds_it_again() {
    let service = running();
    let mut trainer = service.trainer();
    trainer.start(job("run-1-all")).unwrap();
    service.await_request("GET", "");
    let signal = trainer.jobs.signal("run-1-all");
    drop(trainer);
    signal.await_end();
    assert_eq!(service.count("DELETE", ""), 0);

    let mut restarted = service.trainer();
    assert_eq!(restarted.poll("run-1-all").unwrap(), JobStatus::Unknown);
    restarted.start(job("run-1-all")).unwrap();
    assert!((0..1_000).any(|_| service.count("POST", "") > 1 || (thread::sleep(Duration::from_millis(10)), false).1));
    let names: Vec<_> = service.seen().iter().filter_map(|r| r.headers.get("idempotency-key").cloned()).collect();
    assert_eq!(names[0], names[1]);
}

#[test]
#[cfg(not(feature = "https"))]
fn https_needs_its_feature() {
    let error = HttpTrainer::new("https://trainer/").start(job("k")).unwrap_err();
    assert_eq!(error.to_string(), "https://trainer needs the feature `https`");
}
