//! A table as the daemon serves it: found or made with waiting, before anything is served.

extern crate std;

use core::net::SocketAddr;
use core::time::Duration;
use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::string::{String, ToString};
use std::vec::Vec;
use std::{format, vec};

use super::client::{Ramcloud, Settings};
use crate::sys::map;
use crate::wire::ramcloud::config::servers;
use crate::wire::ramcloud::reply::{self, Head};
use crate::wire::ramcloud::{HEAD_LEN, Request, Status};

/// Time that the coordinator gets to answer before anything is served.
const PATIENCE: Duration = Duration::from_secs(10);
/// The service of masters in a server list.
const MASTERS: u32 = 1;

/// Say which table is served, and how to reach it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Name or address of the coordinator, and its port.
    pub coordinator: (String, u16),
    /// Name of the table.
    pub table: String,
    /// Masters over which a new table is spread.
    pub span: u32,
    /// Nanoseconds without an answer after which a request fails.
    pub timeout: u64,
}

/// Talk with a coordinator, one request after the other.
pub struct Coordinator {
    stream: TcpStream,
    address: SocketAddr,
    nonce: u64,
}

impl Coordinator {
    /// Connect.
    ///
    /// # Errors
    /// Why it cannot be, in words.
    pub fn connect(to: &(String, u16)) -> Result<Self, String> {
        let found = (to.0.as_str(), to.1).to_socket_addrs();
        let found = found.map_err(|error| error.to_string())?.next();
        let address = found.ok_or("no address")?;
        let words = |error: std::io::Error| error.to_string();
        let stream = TcpStream::connect_timeout(&address, PATIENCE).map_err(words)?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(words)?;
        Ok(Self {
            stream,
            address,
            nonce: 0,
        })
    }

    /// Ask, and give status and payload of the answer. When it is told to come later, it does.
    ///
    /// # Errors
    /// What went wrong, in words.
    pub fn ask(&mut self, request: &Request<'_>) -> Result<(Status, Vec<u8>), String> {
        let started = std::time::Instant::now();
        loop {
            let payload = self.exchange(request)?;
            let no_reply = |_| "what came is no reply of RAMCloud".to_string();
            let status = reply::status(&payload).map_err(no_reply)?;
            if status != Status::Retry || started.elapsed() > PATIENCE {
                return Ok((status, payload));
            }
            let (delay, _) = reply::retry(&payload).map_err(no_reply)?;
            std::thread::sleep(Duration::from_micros(delay.into()).min(PATIENCE));
        }
    }

    fn exchange(&mut self, request: &Request<'_>) -> Result<Vec<u8>, String> {
        let words = |error: std::io::Error| match error.kind() {
            std::io::ErrorKind::UnexpectedEof => "the server ended the connection".into(),
            std::io::ErrorKind::WouldBlock => format!("no answer within {} s", PATIENCE.as_secs()),
            _ => error.to_string(),
        };
        self.nonce += 1;
        let mut frame = vec![0; 512];
        let len = request.emit(self.nonce, &mut frame);
        let len = len.ok_or("the request is too long")?;
        self.stream.write_all(&frame[..len]).map_err(words)?;
        let mut head = [0; HEAD_LEN];
        self.stream.read_exact(&mut head).map_err(words)?;
        let head = match Head::parse(&head) {
            Ok(Some(head)) if head.nonce == self.nonce => head,
            _ => return Err("what came is no reply of RAMCloud".into()),
        };
        let mut payload = vec![0; head.len];
        self.stream.read_exact(&mut payload).map_err(words)?;
        Ok(payload)
    }

    fn number(&mut self, request: &Request<'_>) -> Result<Option<u64>, String> {
        match self.ask(request)? {
            (Status::Ok, payload) => {
                let number = reply::number(&payload).ok().filter(|&number| number != 0);
                number.map(Some).ok_or("no number of a table came".into())
            }
            (Status::TableDoesntExist, _) => Ok(None),
            (status, _) => Err(format!("the coordinator answers with {status:?}")),
        }
    }
}

/// Hold a table that was found.
pub struct Server {
    settings: Settings,
}

impl Server {
    /// Find the table, or make it.
    ///
    /// # Errors
    /// Why it cannot be served, in words.
    pub fn open(config: &Config) -> Result<Self, String> {
        let mut coordinator = Coordinator::connect(&config.coordinator)?;
        let name = config.table.as_bytes();
        let found = match coordinator.number(&Request::GetTableId(name))? {
            Some(table) => Some(table),
            None => coordinator.number(&Request::CreateTable {
                name,
                span: config.span,
            })?,
        };
        let table = found.ok_or_else(|| format!("the table {:?} cannot be made", config.table))?;
        Ok(Self {
            settings: Settings {
                coordinator: coordinator.address,
                table,
                timeout: config.timeout,
            },
        })
    }

    /// Look what is there, and change nothing. Gives it in words.
    ///
    /// # Errors
    /// Why it cannot be served, in words.
    pub fn look(config: &Config) -> Result<String, String> {
        let mut coordinator = Coordinator::connect(&config.coordinator)?;
        let (_, list) = coordinator.ask(&Request::GetServerList(MASTERS))?;
        let list = reply::message(&list).map_err(|_| "no list of servers came")?;
        let masters = servers(list).flatten().count();
        if masters == 0 {
            return Err("the coordinator knows no master".into());
        }
        let there = match coordinator.number(&Request::GetTableId(config.table.as_bytes()))? {
            Some(number) => format!("is there, number {number}"),
            None => "will be made".into(),
        };
        let (host, port) = &config.coordinator;
        Ok(format!(
            "{host}:{port}: RAMCloud, {masters} masters; table {:?} {there}",
            config.table
        ))
    }

    /// Make the engine of one core, for so many requests in flight.
    ///
    /// # Errors
    /// What is missing, in words.
    pub fn attach(&self, requests: u32) -> Result<Ramcloud, String> {
        let arena = map::reserve(footprint(requests)).map_err(|error| error.to_string())?;
        Ramcloud::new(&arena, self.settings, requests).map_err(|error| error.to_string())
    }
}

/// Give the bytes of memory of an engine for so many requests in flight.
pub const fn footprint(requests: u32) -> usize {
    Ramcloud::<super::super::line::Tcp>::footprint(requests)
}
