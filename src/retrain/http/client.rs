//! Requests to the service, with patience.

use std::time::Duration;

use ureq::Agent;
use ureq::http::Response;

use super::Order;
use crate::retrain::signal::{Signal, back_off};

/// Longest answer that is no artifact.
const ANSWER: u64 = 1 << 20;

pub(super) enum Method {
    Get,
    Delete,
    /// A body, and the name that makes it one request however often it is made.
    Post(String, String),
}

/// Why there is no answer.
pub(super) enum Trouble {
    /// Somebody wants the job to end, or the host ends.
    Unwanted,
    /// It is of no use to try again.
    Final(String),
}

/// Status and body of an answer below 500.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Vec<u8>,
}

impl Answer {
    pub(super) fn is_good(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The answer for a person.
    pub(super) fn text(&self) -> String {
        let body = String::from_utf8_lossy(&self.body);
        let start: String = body.trim().chars().take(200).collect();
        if start.is_empty() {
            format!("HTTP status {}", self.status)
        } else {
            format!("HTTP status {}: {start}", self.status)
        }
    }
}

pub(super) struct Client<'a> {
    order: &'a Order,
    agent: Agent,
    signal: &'a Signal,
    gone: &'a Signal,
}

impl<'a> Client<'a> {
    pub(super) fn new(order: &'a Order, signal: &'a Signal, gone: &'a Signal) -> Self {
        let patience = Some(order.request_timeout);
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(order.timeout))
            .timeout_resolve(patience)
            .timeout_connect(patience)
            .timeout_recv_response(patience)
            .timeout_per_read(patience)
            .timeout_per_write(patience)
            .build();
        Client { order, agent: config.into(), signal, gone }
    }

    pub(super) fn unwanted(&self) -> bool {
        self.signal.raised() || self.gone.raised()
    }

    /// Waits, in short pieces, as long as somebody wants the result.
    pub(super) fn pause(&self, time: Duration) {
        let begun = std::time::Instant::now();
        while !self.unwanted() && begun.elapsed() < time {
            self.signal.pause(time.saturating_sub(begun.elapsed()).min(Duration::from_millis(100)));
        }
    }

    /// An answer below 500 other than 408 and 429; the request is made again until there is one.
    pub(super) fn ask(&self, method: &Method, address: &str) -> Result<Answer, Trouble> {
        self.patiently(|| self.once(method, address, ANSWER))
    }

    /// The same for an artifact.
    pub(super) fn download(&self, address: &str) -> Result<Answer, Trouble> {
        self.patiently(|| self.once(&Method::Get, address, self.order.most_bytes))
    }

    /// Makes a request once, whether or not anybody wants the result.
    pub(super) fn tell(&self, method: &Method, address: &str) {
        // A service that cannot be told ends the job by itself, or trains for nothing.
        let _ = self.once(method, address, ANSWER);
    }

    fn patiently(&self, request: impl Fn() -> Result<Answer, Attempt>) -> Result<Answer, Trouble> {
        let mut failures = 0;
        loop {
            if self.unwanted() {
                return Err(Trouble::Unwanted);
            }
            let what = match request() {
                Ok(answer) if answer.status < 500 && !matches!(answer.status, 408 | 429) => return Ok(answer),
                Ok(answer) => answer.text(),
                Err(Attempt::Hopeless(what)) => return Err(Trouble::Final(what)),
                Err(Attempt::Failed(what)) => what,
            };
            failures += 1;
            if failures > self.order.retries {
                return Err(Trouble::Final(format!("{what}, at {failures} requests")));
            }
            self.pause(back_off(self.order.back_off, failures));
        }
    }

    fn once(&self, method: &Method, address: &str, most: u64) -> Result<Answer, Attempt> {
        let token = self.order.token.as_ref().map(|token| format!("Bearer {token}"));
        let answer = match method {
            Method::Get | Method::Delete => {
                let mut request = match method {
                    Method::Delete => self.agent.delete(address),
                    _ => self.agent.get(address),
                };
                if let Some(token) = &token {
                    request = request.header("Authorization", token);
                }
                request.call()
            }
            Method::Post(body, name) => {
                let mut request = self.agent.post(address).header("Idempotency-Key", name);
                request = request.content_type("application/json");
                if let Some(token) = &token {
                    request = request.header("Authorization", token);
                }
                request.send(body)
            }
        };
        answer.and_then(|answer| read(answer, most)).map_err(|error| Attempt::of(&error))
    }
}

fn read(mut answer: Response<ureq::Body>, most: u64) -> Result<Answer, ureq::Error> {
    let status = answer.status().as_u16();
    let body = answer.body_mut().with_config().limit(most).read_to_vec()?;
    Ok(Answer { status, body })
}

/// Why a request has no answer.
enum Attempt {
    Failed(String),
    Hopeless(String),
}

impl Attempt {
    fn of(error: &ureq::Error) -> Self {
        use ureq::Error::{BadUri, BodyExceedsLimit, Http, InvalidProxyUrl, RedirectFailed, TooManyRedirects};
        match error {
            BodyExceedsLimit(most) => Attempt::Hopeless(format!("the answer has more than {most} bytes")),
            BadUri(_) | Http(_) | InvalidProxyUrl | RedirectFailed | TooManyRedirects => {
                Attempt::Hopeless(error.to_string())
            }
            _ => Attempt::Failed(error.to_string()),
        }
    }
}
