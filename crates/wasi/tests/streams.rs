//! Sockets and `poll_oneoff`.

mod guest;

use guest::*;
use peregrine_wasi::MemoryInputPipe;
use peregrine_wasi::host::clock::{Clock, ClockSource};
use peregrine_wasi::p1::Errno;
use peregrine_wasi::p1::table::Function;
use peregrine_wasi::p1::types::Rights;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

const END: u64 = MEMORY_LEN as u64;
const NONBLOCK: u64 = 4;
/// Where subscriptions stand, and where events are written.
const SUBSCRIPTIONS: u32 = BUF;
const EVENTS: u32 = BUF + 300 * 1024;

const CLOCK: u8 = 0;
const FD_READ: u8 = 1;
const FD_WRITE: u8 = 2;
const REALTIME: u32 = 0;
const MONOTONIC: u32 = 1;
const MILLISECOND: u64 = 1_000_000;

#[derive(Clone, Copy)]
enum Sub {
    Clock { id: u32, timeout: u64, flags: u16 },
    Fd { kind: u8, fd: u32 },
}

/// What a subscription came to: userdata, error, kind, bytes, flags.
type Event = (u64, u16, u8, u64, u16);

fn poll(guest: &mut Guest, subs: &[Sub]) -> Result<Vec<Event>, Errno> {
    for (at, sub) in (0_u32..).zip(subs) {
        let mut layout = [0xaa_u8; 48];
        layout[..8].copy_from_slice(&(u64::from(at) + 1000).to_le_bytes());
        match *sub {
            Sub::Clock { id, timeout, flags } => {
                layout[8] = CLOCK;
                layout[16..20].copy_from_slice(&id.to_le_bytes());
                layout[24..32].copy_from_slice(&timeout.to_le_bytes());
                layout[40..42].copy_from_slice(&flags.to_le_bytes());
            }
            Sub::Fd { kind, fd } => {
                layout[8] = kind;
                layout[16..20].copy_from_slice(&fd.to_le_bytes());
            }
        }
        guest.put(SUBSCRIPTIONS + at * 48, &layout);
    }
    guest.put(EVENTS, &vec![0xaa; subs.len() * 32]);
    guest.try_call(Function::poll_oneoff, &[SUBSCRIPTIONS.into(), EVENTS.into(), subs.len() as u64, OUT.into()])?;
    let count = guest.u32(OUT);
    assert!(count >= 1 && count as usize <= subs.len());
    Ok((0..count)
        .map(|at| {
            let event = EVENTS + at * 32;
            assert_eq!((guest.bytes(event + 11, 5), guest.bytes(event + 26, 6)), (&[0; 5][..], &[0; 6][..]), "padding is zero");
            let kind = guest.memory[event as usize + 10];
            (guest.u64(event), guest.u16(event + 8), kind, guest.u64(event + 16), guest.u16(event + 24))
        })
        .collect())
}

fn now(guest: &mut Guest, id: u32) -> u64 {
    assert_eq!(guest.call(Function::clock_time_get, &[id.into(), 0, OUT.into()]), Errno::Success);
    guest.u64(OUT)
}

#[test]
fn clocks_come_true_in_time() {
    let mut guest = Guest::bare(|_| ());
    for id in [REALTIME, MONOTONIC] {
        let start = Instant::now();
        let events = poll(&mut guest, &[Sub::Clock { id, timeout: 30 * MILLISECOND, flags: 0 }]).unwrap();
        assert_eq!(events, [(1000, 0, CLOCK, 0, 0)]);
        assert!(start.elapsed() >= Duration::from_millis(30));
        let start = Instant::now();
        let timeout = now(&mut guest, id) + 30 * MILLISECOND;
        poll(&mut guest, &[Sub::Clock { id, timeout, flags: 1 }]).unwrap();
        assert!(start.elapsed() >= Duration::from_millis(28), "{:?}", start.elapsed());
        // What is past is at once: before what is far.
        for past in [Sub::Clock { id, timeout: 1, flags: 1 }, Sub::Clock { id, timeout: 0, flags: 0 }] {
            let far = Sub::Clock { id: MONOTONIC, timeout: 3_600_000 * MILLISECOND, flags: 0 };
            assert_eq!(poll(&mut guest, &[far, past]).unwrap(), [(1001, 0, CLOCK, 0, 0)]);
        }
    }
    let far = Sub::Clock { id: MONOTONIC, timeout: u64::MAX, flags: 0 };
    let near = Sub::Clock { id: REALTIME, timeout: MILLISECOND, flags: 0 };
    assert_eq!(poll(&mut guest, &[far, near, far]).unwrap(), [(1001, 0, CLOCK, 0, 0)]);
}

#[test]
fn wrong_subscriptions_are_events_with_errors() {
    let mut guest = Guest::new();
    let far = Sub::Clock { id: MONOTONIC, timeout: u64::MAX, flags: 0 };
    let subs = [
        far,
        Sub::Clock { id: 9, timeout: 0, flags: 0 },
        Sub::Clock { id: MONOTONIC, timeout: 0, flags: 2 },
        Sub::Clock { id: 2, timeout: 0, flags: 0 },
        Sub::Fd { kind: FD_READ, fd: 99 },
        Sub::Fd { kind: FD_READ, fd: 1 },
        Sub::Fd { kind: FD_WRITE, fd: 0 },
        Sub::Fd { kind: FD_READ, fd: DIR },
    ];
    let errors: Vec<(u64, u16)> = poll(&mut guest, &subs).unwrap().iter().map(|event| (event.0, event.1)).collect();
    let (inval, notsup, badf) = (Errno::Inval as u16, Errno::Notsup as u16, Errno::Badf as u16);
    assert_eq!(errors, [(1001, inval), (1002, inval), (1003, notsup), (1004, badf), (1005, badf), (1006, badf), (1007, badf)]);

    let call =
        |guest: &mut Guest, subs: u64, events: u64, count: u64, out: u64| guest.call(Function::poll_oneoff, &[subs, events, count, out]);
    let (subs, events, out) = (SUBSCRIPTIONS.into(), EVENTS.into(), OUT.into());
    assert_eq!(call(&mut guest, subs, events, 0, out), Errno::Inval);
    for count in [4097, 0x8000_0000, 0xffff_ffff] {
        assert_eq!(call(&mut guest, subs, events, count, out), Errno::Inval);
    }
    assert_eq!(call(&mut guest, END - 47, events, 1, out), Errno::Fault);
    assert_eq!(call(&mut guest, subs, END - 31, 1, out), Errno::Fault);
    assert_eq!(call(&mut guest, subs, events, 1, END - 3), Errno::Fault);
    guest.memory[SUBSCRIPTIONS as usize + 8] = 3;
    assert_eq!(call(&mut guest, subs, events, 1, out), Errno::Inval);
}

#[test]
fn files_and_streams_in_memory_are_always_ready() {
    let mut guest = Guest::with(peregrine_wasi::DirPerms::all(), peregrine_wasi::FilePerms::all(), |builder| {
        builder.stdin(MemoryInputPipe::new("x")).stdout(pipe());
    });
    guest.create("file", b"12345");
    let fd = guest.open("file", 0, RW).unwrap();
    guest.read(fd, 2).unwrap();
    let far = Sub::Clock { id: MONOTONIC, timeout: u64::MAX, flags: 0 };
    let subs = [
        Sub::Fd { kind: FD_READ, fd },
        far,
        Sub::Fd { kind: FD_WRITE, fd },
        Sub::Fd { kind: FD_READ, fd: 0 },
        Sub::Fd { kind: FD_WRITE, fd: 1 },
    ];
    let events = poll(&mut guest, &subs).unwrap();
    assert_eq!(events, [(1000, 0, FD_READ, 3, 0), (1002, 0, FD_WRITE, 1, 0), (1003, 0, FD_READ, 1, 0), (1004, 0, FD_WRITE, 1, 0)]);
    let many = vec![Sub::Fd { kind: FD_READ, fd }; 4096];
    assert_eq!(poll(&mut guest, &many).unwrap().len(), 4096);
    let (_, _, base, inheriting) = guest.fdstat(fd).unwrap();
    let less = base - Rights::POLL_FD_READWRITE;
    guest.try_call(Function::fd_fdstat_set_rights, &[fd.into(), less.bits(), inheriting.bits()]).unwrap();
    assert_eq!(poll(&mut guest, &subs[..1]).unwrap()[0].1, Errno::Notcapable as u16);
}

#[test]
fn pipes_are_waited_for() {
    let (reader, mut writer) = std::io::pipe().unwrap();
    let (out_reader, out_writer) = std::io::pipe().unwrap();
    let mut guest = Guest::bare(|builder| {
        builder.stdin(OwnedFd::from(reader)).stdout(OwnedFd::from(out_writer));
    });
    let read = Sub::Fd { kind: FD_READ, fd: 0 };
    let soon = Sub::Clock { id: MONOTONIC, timeout: 20 * MILLISECOND, flags: 0 };
    let late = Sub::Clock { id: MONOTONIC, timeout: 20_000 * MILLISECOND, flags: 0 };
    assert_eq!(poll(&mut guest, &[read, soon]).unwrap(), [(1001, 0, CLOCK, 0, 0)]);
    let writing = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(20));
        writer.write_all(b"hello").unwrap();
        writer
    });
    assert_eq!(poll(&mut guest, &[late, read]).unwrap(), [(1001, 0, FD_READ, 5, 0)]);
    assert_eq!(guest.read(0, 10), Ok(b"hello".to_vec()));
    assert_eq!(guest.call(Function::fd_fdstat_set_flags, &[0, NONBLOCK]), Errno::Success);
    assert_eq!(guest.read(0, 10), Err(Errno::Again));
    drop(writing.join().unwrap());
    assert_eq!(poll(&mut guest, &[read]).unwrap(), [(1000, 0, FD_READ, 0, 1)], "hung up");
    assert_eq!(guest.read(0, 10), Ok(vec![]));
    assert_eq!(poll(&mut guest, &[Sub::Fd { kind: FD_WRITE, fd: 1 }]).unwrap(), [(1000, 0, FD_WRITE, 1, 0)]);
    drop(out_reader);
    assert_eq!(guest.write(1, b"x"), Err(Errno::Pipe));
    assert_eq!(guest.fdstat(0).unwrap().0, 0, "a pipe has no kind");
    assert_eq!(guest.call(Function::fd_tell, &[0, OUT.into()]), Errno::Spipe);
}

/// A clock of the embedder's that stands still.
struct Standing;

impl ClockSource for Standing {
    fn now_ns(&self, clock: Clock) -> u64 {
        if clock == Clock::Realtime { 5_000_000_000 } else { 100 }
    }

    fn resolution_ns(&self, _clock: Clock) -> u64 {
        0
    }
}

#[test]
fn clocks_can_be_read_and_replaced() {
    let mut guest = Guest::bare(|_| ());
    for id in 0..4 {
        assert!(now(&mut guest, id) > 0);
        assert!(now(&mut guest, id) >= now(&mut guest, id) / 2);
        assert_eq!(guest.call(Function::clock_res_get, &[id.into(), OUT.into()]), Errno::Success);
        assert!((1..=1_000_000_000).contains(&guest.u64(OUT)));
        assert_eq!(guest.call(Function::clock_time_get, &[id.into(), 0, END - 7]), Errno::Fault);
    }
    for id in [4, 0x8000_0000, 0xffff_ffff] {
        assert_eq!(guest.call(Function::clock_time_get, &[id, 0, OUT.into()]), Errno::Inval);
        assert_eq!(guest.call(Function::clock_res_get, &[id, OUT.into()]), Errno::Inval);
    }
    assert!(now(&mut guest, REALTIME) > 1_600_000_000_000_000_000);
    let mut guest = Guest::bare(|builder| {
        builder.clocks(Standing);
    });
    assert_eq!((now(&mut guest, REALTIME), now(&mut guest, MONOTONIC)), (5_000_000_000, 100));
    assert_eq!(guest.call(Function::clock_res_get, &[0, OUT.into()]), Errno::Success);
    assert_eq!(guest.u64(OUT), 1);
    let events = poll(&mut guest, &[Sub::Clock { id: MONOTONIC, timeout: MILLISECOND, flags: 0 }]).unwrap();
    assert_eq!(events, [(1000, 0, CLOCK, 0, 0)]);
}

/// A guest with a listening socket at descriptor 3, and its address.
fn listening() -> (Guest, std::net::SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let guest = Guest::bare(|builder| {
        builder.preopened_socket(listener).unwrap();
    });
    (guest, address)
}

fn accept(guest: &mut Guest, flags: u64) -> Result<u32, Errno> {
    guest.try_call(Function::sock_accept, &[3, flags, OUT.into()])?;
    Ok(guest.u32(OUT))
}

fn receive(guest: &mut Guest, fd: u32, len: u32, flags: u64) -> Result<(Vec<u8>, u16), Errno> {
    guest.put_iovs(&[(BUF, len)]);
    guest.try_call(Function::sock_recv, &[fd.into(), IOVS.into(), 1, flags, OUT.into(), u64::from(OUT) + 4])?;
    Ok((guest.bytes(BUF, guest.u32(OUT)).to_vec(), guest.u16(OUT + 4)))
}

#[test]
fn connections_are_taken_and_carry_bytes() {
    let (mut guest, address) = listening();
    let mut client = TcpStream::connect(address).unwrap();
    assert_eq!(poll(&mut guest, &[Sub::Fd { kind: FD_READ, fd: 3 }]).unwrap()[0].1, 0);
    let fd = accept(&mut guest, 0).unwrap();
    assert_eq!(fd, 4);
    client.write_all(b"hello world").unwrap();
    assert_eq!(receive(&mut guest, fd, 5, 1), Ok((b"hello".to_vec(), 0)));
    assert_eq!(receive(&mut guest, fd, 5, 0), Ok((b"hello".to_vec(), 0)));
    let events = poll(&mut guest, &[Sub::Fd { kind: FD_READ, fd }, Sub::Fd { kind: FD_WRITE, fd }]).unwrap();
    assert_eq!(events, [(1000, 0, FD_READ, 6, 0), (1001, 0, FD_WRITE, 1, 0)]);
    assert_eq!(guest.read(fd, 20), Ok(b" world".to_vec()));
    assert_eq!(guest.write(fd, b"by write, "), Ok(10));
    guest.put(BUF, b"by send");
    guest.put_iovs(&[(BUF, 3), (BUF + 3, 4)]);
    assert_eq!(guest.call(Function::sock_send, &[fd.into(), IOVS.into(), 2, 0, OUT.into()]), Errno::Success);
    assert_eq!(guest.u32(OUT), 7);
    let mut got = [0; 17];
    client.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"by write, by send");

    let mut late = client.try_clone().unwrap();
    let writing = std::thread::spawn(move || {
        late.write_all(b"ab").unwrap();
        std::thread::sleep(Duration::from_millis(30));
        late.write_all(b"cd").unwrap();
    });
    assert_eq!(receive(&mut guest, fd, 4, 2), Ok((b"abcd".to_vec(), 0)), "waits for all");
    writing.join().unwrap();

    let (kind, flags, rights, _) = guest.fdstat(fd).unwrap();
    assert_eq!((kind, flags, rights), (6, 0, Rights::CONNECTION));
    assert_eq!(guest.fd_stat(fd).unwrap().filetype, 6);
    assert_eq!(guest.call(Function::sock_shutdown, &[fd.into(), 2]), Errno::Success);
    assert_eq!(client.read(&mut got).unwrap(), 0);
    assert_eq!(guest.write(fd, b"x"), Err(Errno::Pipe));
    drop(client);
    assert_eq!(guest.read(fd, 1), Ok(vec![]));
}

#[test]
fn sockets_that_do_not_wait() {
    let (mut guest, address) = listening();
    assert_eq!(guest.call(Function::fd_fdstat_set_flags, &[3, NONBLOCK]), Errno::Success);
    assert_eq!(guest.fdstat(3).unwrap(), (6, 4, Rights::LISTENER, Rights::CONNECTION));
    assert_eq!(accept(&mut guest, 0), Err(Errno::Again));
    let client = TcpStream::connect(address).unwrap();
    poll(&mut guest, &[Sub::Fd { kind: FD_READ, fd: 3 }]).unwrap();
    let fd = accept(&mut guest, NONBLOCK).unwrap();
    assert_eq!(guest.fdstat(fd).unwrap().1, 4);
    assert_eq!(guest.read(fd, 1), Err(Errno::Again));
    assert_eq!(receive(&mut guest, fd, 1, 0), Err(Errno::Again));
    assert_eq!(guest.call(Function::fd_fdstat_set_flags, &[fd.into(), 0]), Errno::Success);
    drop(client);
    assert_eq!(guest.read(fd, 1), Ok(vec![]));
}

#[test]
fn sockets_with_wrong_operands() {
    let (mut guest, address) = listening();
    let _client = TcpStream::connect(address).unwrap();
    for flags in [1, 2, 5, 32, 0xffff_ffff] {
        assert_eq!(accept(&mut guest, flags), Err(Errno::Inval));
    }
    assert_eq!(guest.call(Function::sock_accept, &[3, 0, END - 3]), Errno::Fault);
    let fd = accept(&mut guest, 0).unwrap();
    guest.put_iovs(&[(BUF, 1)]);
    let (iovs, out) = (u64::from(IOVS), u64::from(OUT));
    let cases: &[(u64, Errno)] = &[(0, Errno::Notsock), (1, Errno::Notsock), (99, Errno::Badf), (u64::from(u32::MAX), Errno::Badf)];
    for &(bad, errno) in cases {
        assert_eq!(guest.call(Function::sock_accept, &[bad, 0, out]), errno);
        assert_eq!(guest.call(Function::sock_recv, &[bad, iovs, 1, 0, out, out]), errno);
        assert_eq!(guest.call(Function::sock_send, &[bad, iovs, 1, 0, out]), errno);
        assert_eq!(guest.call(Function::sock_shutdown, &[bad, 3]), errno);
    }
    assert_eq!(guest.call(Function::sock_accept, &[fd.into(), 0, out]), Errno::Inval);
    assert_eq!(guest.call(Function::sock_shutdown, &[3, 3]), Errno::Notconn);
    assert_eq!(guest.call(Function::sock_recv, &[3, iovs, 1, 0, out, out]), Errno::Badf);
    let fd = u64::from(fd);
    assert_eq!(guest.call(Function::sock_recv, &[fd, iovs, 1, 4, out, out]), Errno::Inval);
    assert_eq!(guest.call(Function::sock_recv, &[fd, iovs, 1, 0, END - 3, out]), Errno::Fault);
    assert_eq!(guest.call(Function::sock_recv, &[fd, iovs, 1, 0, out, END - 1]), Errno::Fault);
    assert_eq!(guest.call(Function::sock_send, &[fd, iovs, 1, 1, out]), Errno::Inval);
    assert_eq!(guest.call(Function::sock_send, &[fd, END - 7, 1, 0, out]), Errno::Fault);
    for how in [0, 4, 0xffff_ffff] {
        assert_eq!(guest.call(Function::sock_shutdown, &[fd, how]), Errno::Inval);
    }
    assert_eq!(guest.call(Function::fd_seek, &[fd, 0, 0, out]), Errno::Spipe);
    assert_eq!(guest.call(Function::fd_pread, &[fd, iovs, 1, 0, out]), Errno::Spipe);
    assert_eq!(guest.call(Function::fd_fdstat_set_flags, &[fd, 1]), Errno::Inval);
    let rights = Rights::CONNECTION - Rights::SOCK_SHUTDOWN;
    guest.try_call(Function::fd_fdstat_set_rights, &[fd, rights.bits(), 0]).unwrap();
    assert_eq!(guest.call(Function::sock_shutdown, &[fd, 3]), Errno::Notcapable);
}
