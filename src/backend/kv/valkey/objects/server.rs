//! The keys of a server or cluster as the daemon serves them: looked at with waiting, before anything is served.

extern crate std;

use std::boxed::Box;
use std::string::{String, ToString};
use std::time::Duration;
use std::{format, thread};

use super::super::super::engine::Token;
use super::super::super::flat::served::Source;
use super::super::super::objects::{Client, Cursor, Done, Failure, Objects, Op};
use super::super::connection::Settings;
use super::super::server::{Config, PATIENCE, Places, settings};
use super::engine::Strings;
use crate::mem::Segment;
use crate::sys::map;
use crate::sys::time::Instant;

/// Hold the keys of a server that was found.
pub struct Keys {
    settings: &'static Settings,
}

impl Keys {
    /// Find the server. The volume's name and the size of chunks mean nothing here.
    ///
    /// # Errors
    /// Why it cannot be served, in words.
    pub fn open(config: &Config<'_>) -> Result<Self, String> {
        let settings: &'static Settings = Box::leak(Box::new(settings(config)?));
        let mut engine = engine(settings, 1)?;
        wait(&mut engine)?;
        if config.durability.is_some() {
            durable(&mut engine)?;
        }
        Ok(Self { settings })
    }

    /// Look what is there, and change nothing. Gives it in words.
    ///
    /// # Errors
    /// Why it cannot be served, in words.
    pub fn look(config: &Config<'_>) -> Result<String, String> {
        let settings: &'static Settings = Box::leak(Box::new(settings(config)?));
        let mut engine = engine(settings, 1)?;
        wait(&mut engine)?;
        let (server, what) = match engine.server() {
            Some((server, true)) => (server, "a cluster"),
            Some((server, false)) => (server, "one server"),
            None => ("?", "nobody"),
        };
        let places = Places(config.places);
        Ok(format!(
            "{places}: {server}, {what}; its keys are the files"
        ))
    }
}

impl Source for Keys {
    type Objects = Strings;

    fn attach(&self, requests: u32) -> Result<Strings, String> {
        engine(self.settings, requests)
    }
}

fn engine(settings: &'static Settings, requests: u32) -> Result<Strings, String> {
    let arena = map::reserve(Strings::footprint(requests)).map_err(|error| error.to_string())?;
    Strings::new(&arena, settings, requests).map_err(|error| error.to_string())
}

/// Take the answer to one question.
#[derive(Default)]
struct Caller(Option<Result<Done, Failure>>);

impl Client for Caller {
    fn name(&mut self, _: Token, _: &[u8]) {}

    fn place(&mut self, _: Token, _: &Cursor) {}

    fn buffers(&self, _: Token) -> &[Segment] {
        &[]
    }

    fn payload(&self, _: Token) -> &[Segment] {
        &[]
    }

    fn done(&mut self, _: Token, result: Result<Done, Failure>) {
        self.0 = Some(result);
    }
}

/// Wait until an engine serves, as long as there is hope.
fn wait(engine: &mut Strings) -> Result<(), String> {
    let started = std::time::Instant::now();
    while !engine.is_ready() {
        engine.poll(Instant::now(), &mut Caller::default());
        match engine.trouble() {
            Some(trouble) if !trouble.passes() || started.elapsed() > PATIENCE => {
                return Err(format!("{trouble}{}", trouble.hint()));
            }
            None if started.elapsed() > PATIENCE => {
                return Err(format!("no answer within {} s", PATIENCE.as_secs()));
            }
            _ => thread::sleep(Duration::from_micros(200)),
        }
    }
    Ok(())
}

/// Make sure that the server can do what Sync waits for.
fn durable(engine: &mut Strings) -> Result<(), String> {
    let mut caller = Caller::default();
    // Any name will do.
    let op = Op::Sync {
        name: Some(b"dpfs"),
    };
    let _ = engine.submit(Token(0), &op, &mut caller);
    let started = std::time::Instant::now();
    while caller.0.is_none() && started.elapsed() < PATIENCE {
        engine.poll(Instant::now(), &mut caller);
        thread::sleep(Duration::from_micros(200));
    }
    match caller.0 {
        Some(Ok(_)) => Ok(()),
        _ => Err("the server does not confirm what \"durability\" asks for: \"aof\" needs appendonly yes and WAITAOF (Valkey, or Redis from 7.2), \"replicas:N\" so many replicas".into()),
    }
}
