//! Arguments, environment, random numbers, the end of the process; operands without sense for every function; descriptors of the host.
//! One test counts the descriptors of this process, so all of them run one after the other.

mod guest;

use guest::*;
use peregrine_wasi::host::random::RandomSource;
use peregrine_wasi::p1::table::{FUNCTIONS, Function, OperandType};
use peregrine_wasi::p1::{Errno, Exit, GuestMemory};
use peregrine_wasi::{DirPerms, FilePerms, MemoryInputPipe};
use std::net::{TcpListener, TcpStream};
use std::sync::{Mutex, MutexGuard, PoisonError};

const END: u64 = MEMORY_LEN as u64;

/// Lets the tests of this file run one at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn strings(guest: &mut Guest, sizes: Function, get: Function) -> Vec<String> {
    assert_eq!(guest.call(sizes, &[OUT.into(), u64::from(OUT) + 4]), Errno::Success);
    let (count, size) = (guest.u32(OUT), guest.u32(OUT + 4));
    guest.put(BUF, &vec![0xaa; size as usize + 1]);
    assert_eq!(guest.call(get, &[PATH.into(), BUF.into()]), Errno::Success);
    assert_eq!(guest.memory[(BUF + size) as usize], 0xaa, "no byte more than told");
    (0..count)
        .map(|at| {
            let start = guest.u32(PATH + at * 4) as usize;
            let len = guest.memory[start..].iter().position(|&byte| byte == 0).unwrap();
            String::from_utf8(guest.memory[start..start + len].to_vec()).unwrap()
        })
        .collect()
}

#[test]
fn arguments_and_environment() {
    let _alone = alone();
    let mut guest = Guest::bare(|builder| {
        builder.arg("program").args(&["", "zwei ✓"]).env("A", "1").env("EMPTY", "").envs(&[("B", "x=y"), ("A", "2")]);
    });
    assert_eq!(strings(&mut guest, Function::args_sizes_get, Function::args_get), ["program", "", "zwei ✓"]);
    assert_eq!(strings(&mut guest, Function::environ_sizes_get, Function::environ_get), ["EMPTY=", "B=x=y", "A=2"]);
    for function in [Function::args_get, Function::environ_get] {
        for (pointers, buffer) in
            [(END, BUF.into()), (END - 11, BUF.into()), (PATH.into(), END - 5), (u64::from(u32::MAX), u64::from(u32::MAX))]
        {
            assert_eq!(guest.call(function, &[pointers, buffer]), Errno::Fault);
        }
    }
    for function in [Function::args_sizes_get, Function::environ_sizes_get] {
        assert_eq!(guest.call(function, &[END - 3, OUT.into()]), Errno::Fault);
        assert_eq!(guest.call(function, &[OUT.into(), END - 3]), Errno::Fault);
    }
    // After those that were there, and in place of variables of the same name.
    let mut guest = Guest::bare(|builder| {
        builder.arg("first").inherit_args().env("PATH", "mine").env("PEREGRINE_TEST_ONLY_HERE", "1").inherit_env();
    });
    let text = |bytes: std::ffi::OsString| bytes.into_string().expect("what the tests are started with is text");
    let arguments: Vec<String> = std::iter::once("first".into()).chain(std::env::args()).collect();
    assert_eq!(strings(&mut guest, Function::args_sizes_get, Function::args_get), arguments);
    let seen = strings(&mut guest, Function::environ_sizes_get, Function::environ_get);
    for (name, value) in std::env::vars_os() {
        assert!(seen.contains(&format!("{}={}", text(name.clone()), text(value))), "{name:?}");
    }
    assert!(seen.contains(&"PEREGRINE_TEST_ONLY_HERE=1".into()) && !seen.contains(&"PATH=mine".into()), "{seen:?}");
    let mut guest = Guest::bare(|_| ());
    assert!(strings(&mut guest, Function::args_sizes_get, Function::args_get).is_empty());
    assert!(strings(&mut guest, Function::environ_sizes_get, Function::environ_get).is_empty());
    assert_eq!(guest.call(Function::args_get, &[u64::from(u32::MAX), u64::from(u32::MAX)]), Errno::Success, "nothing to write");
}

struct Sevens;

impl RandomSource for Sevens {
    fn fill(&mut self, buffer: &mut [u8]) {
        buffer.fill(7);
    }
}

#[test]
fn random_numbers() {
    let _alone = alone();
    let mut guest = Guest::bare(|_| ());
    assert_eq!(guest.call(Function::random_get, &[BUF.into(), 1000]), Errno::Success);
    assert!(guest.bytes(BUF, 1000).iter().collect::<std::collections::HashSet<_>>().len() > 50);
    assert_eq!(guest.bytes(BUF + 1000, 8), [0; 8]);
    assert_eq!(guest.call(Function::random_get, &[END, 0]), Errno::Success);
    assert_eq!(guest.call(Function::random_get, &[0, END]), Errno::Success);
    for (ptr, len) in [(END, 1), (1, END), (u64::from(u32::MAX), 1), (0, u64::from(u32::MAX)), (BUF.into(), 0x8000_0000)] {
        assert_eq!(guest.call(Function::random_get, &[ptr, len]), Errno::Fault);
    }
    let mut guest = Guest::bare(|builder| {
        builder.secure_random(Sevens);
    });
    assert_eq!(guest.call(Function::random_get, &[BUF.into(), 10]), Errno::Success);
    assert_eq!(guest.bytes(BUF, 11), [7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 0]);
}

#[test]
fn the_end_and_signals() {
    let _alone = alone();
    let mut guest = Guest::bare(|_| ());
    for code in [0, 1, 134, u32::MAX] {
        let ended = guest.ctx.dispatch(&mut GuestMemory::new(&mut guest.memory), Function::proc_exit, &[code.into()]);
        assert_eq!(ended, Err(Exit { code }));
    }
    assert_eq!(guest.call(Function::proc_raise, &[0]), Errno::Success);
    assert_eq!(guest.call(Function::proc_raise, &[6]), Errno::Notsup);
    assert_eq!(guest.call(Function::proc_raise, &[30]), Errno::Notsup);
    assert_eq!(guest.call(Function::proc_raise, &[31]), Errno::Inval);
    assert_eq!(guest.call(Function::proc_raise, &[u64::from(u32::MAX)]), Errno::Inval);
    assert_eq!(guest.call(Function::sched_yield, &[]), Errno::Success);
}

/// A guest with one of everything, none of which waits.
fn rich() -> (Guest, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let connection = listener.accept().unwrap().0;
    connection.set_nonblocking(true).unwrap();
    let mut guest = Guest::with(DirPerms::all(), FilePerms::all(), |builder| {
        builder.args(&["a", "b"]).env("c", "d").stdin(MemoryInputPipe::new("input")).stdout(pipe()).max_open_fds(20);
        builder.preopened_socket(listener).unwrap();
        builder.preopened_connection(connection).unwrap();
    });
    guest.create("a", b"contents");
    guest.mkdir("d").unwrap();
    guest.symlink("a", "l").unwrap();
    guest.open("a", 0, RW).unwrap();
    guest.open("d", DIRECTORY, 0).unwrap();
    (guest, client)
}

/// An operand that could have sense, by its name.
fn plausible(name: &str, numbers: &mut Numbers) -> u64 {
    match name {
        name if name.ends_with("opened_fd") => OUT.into(),
        name if name.ends_with("fd") || name == "to" => [0, 1, 2, 3, 3, 3, 3, 3, 3, 4, 5, 6, 6, 7, 7, 8][numbers.below(16)],
        name if name.ends_with("path_len") => [1, 2, 4][numbers.below(3)],
        name if name.ends_with("path") => [PATH, PATH2][numbers.below(2)].into(),
        name if name.ends_with("_len") => numbers.below(4) as u64,
        "iovs" | "ri_data" | "si_data" => IOVS.into(),
        name if name.starts_with("fs_rights") => [0, RW, u64::MAX][numbers.below(3)],
        name if name.ends_with("flags") || matches!(name, "whence" | "advice" | "how" | "sig" | "id") => numbers.below(4) as u64,
        "offset" | "size" | "len" | "cookie" | "precision" | "atim" | "mtim" | "nsubscriptions" => numbers.below(3) as u64,
        "buf" | "subscriptions" => BUF.into(),
        _ => OUT.into(),
    }
}

#[test]
fn operands_without_sense_never_panic() {
    let _alone = alone();
    let (mut guest, mut _client);
    let end = MEMORY_LEN;
    let words: &[u32] = &[
        0,
        1,
        2,
        3,
        4,
        5,
        6,
        7,
        8,
        OUT,
        PATH,
        BUF,
        4096,
        end - 1,
        end - 4,
        end - 8,
        end,
        end + 1,
        0x7fff_ffff,
        0x8000_0000,
        u32::MAX - 7,
        u32::MAX,
    ];
    let longs: &[u64] = &[0, 1, 4096, 65535, i64::MAX as u64, 1 << 63, u64::MAX - 1, u64::MAX];
    let mut numbers = Numbers::new(46);
    for row in FUNCTIONS {
        (guest, _client) = rich();
        let mut succeeded = 0;
        // The disk is slow.
        let rounds = if row.name.ends_with("sync") { 100 } else { 1500_u32 };
        for round in 0..rounds {
            if round.is_multiple_of(50) {
                guest.memory.fill(0);
                let path: &[u8] = numbers.pick(&[&b"ab/c"[..], b"d/ab", b"a\0", b"l", b"dd"]);
                guest.put_path(path);
                guest.put_path2(b"new/");
                guest.put_iovs(&[(BUF, 10), (BUF + 5, 10), (end - 1, 1), (u32::MAX, u32::MAX)]);
            }
            let operands: Vec<u64> = row
                .operands
                .iter()
                .map(|(name, kind)| match kind {
                    _ if numbers.below(row.operands.len() + 1) > 0 => plausible(name, &mut numbers),
                    OperandType::I32 => words[numbers.below(words.len())].into(),
                    OperandType::I64 => longs[numbers.below(longs.len())],
                })
                .collect();
            if row.function == Function::poll_oneoff {
                // Zeros are clocks that come true at once; what else lies in memory might be one that never does.
                guest.memory.fill(0);
            }
            match guest.ctx.dispatch(&mut GuestMemory::new(&mut guest.memory), row.function, &operands) {
                Ok(Errno::Success) => succeeded += 1,
                Ok(_) => {}
                Err(_) => assert_eq!(row.function, Function::proc_exit),
            }
            // Give back what was closed or renumbered.
            if matches!(row.function, Function::fd_close | Function::fd_renumber | Function::fd_fdstat_set_rights) && round % 50 == 49 {
                (guest, _client) = rich();
            }
        }
        println!("{}: {succeeded} of {rounds} succeeded", row.name);
        let can = row.function != Function::proc_exit && !row.name.starts_with("sock_");
        assert!(succeeded > 0 || !can, "{} was never called with sense", row.name);
    }
}

/// Functions that do without memory: what they can do is done. `random_get` does when nothing is asked for.
const WITHOUT_MEMORY: [Function; 14] = [
    Function::fd_advise,
    Function::fd_allocate,
    Function::fd_close,
    Function::fd_datasync,
    Function::fd_fdstat_set_flags,
    Function::fd_fdstat_set_rights,
    Function::fd_filestat_set_size,
    Function::fd_filestat_set_times,
    Function::fd_renumber,
    Function::fd_sync,
    Function::proc_exit,
    Function::proc_raise,
    Function::sched_yield,
    Function::sock_shutdown,
];

/// Functions that refuse operands that are all the same before they look at memory: no descriptor of these can be read at a place, and so on.
const REFUSED_FIRST: [Function; 8] = [
    Function::fd_pread,
    Function::fd_pwrite,
    Function::fd_seek,
    Function::fd_tell,
    Function::path_filestat_set_times,
    Function::path_link,
    Function::sock_recv,
    Function::sock_send,
];

#[test]
fn every_function_stands_an_empty_memory() {
    let _alone = alone();
    for row in FUNCTIONS {
        let needs_none = WITHOUT_MEMORY.contains(&row.function);
        let mut faults = 0;
        for word in [0, 1, 3, u32::MAX] {
            let (mut guest, _client) = rich();
            let operands = vec![u64::from(word); row.operands.len()];
            let mut memory = [];
            match guest.ctx.dispatch(&mut GuestMemory::new(&mut memory), row.function, &operands) {
                Ok(Errno::Fault) => faults += 1,
                Ok(Errno::Success) => assert!(needs_none || (row.function, word) == (Function::random_get, 0), "{} {word}", row.name),
                Ok(_) => {}
                Err(_) => assert_eq!(row.function, Function::proc_exit),
            }
        }
        let looks_at_memory = !needs_none && !REFUSED_FIRST.contains(&row.function);
        assert_eq!(faults > 0, looks_at_memory, "{}: {faults} faults", row.name);
    }
}

type Operation = dyn Fn(&mut Guest) -> Result<(), Errno>;

/// The descriptors that this process holds open.
fn host_descriptors() -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok())
        .map(|target| target.display().to_string())
        .filter(|target| !target.starts_with("/proc/"))
        .collect();
    names.sort();
    names
}

#[test]
fn no_descriptor_of_the_host_is_left_open() {
    let _alone = alone();
    let before = host_descriptors();
    {
        let mut guest = Guest::new();
        let steady = {
            guest.create("a", b"");
            guest.mkdir("d").unwrap();
            guest.symlink("../..", "d/out").unwrap();
            host_descriptors()
        };
        assert_eq!(steady.len(), before.len() + 1, "one for the grant");
        for _ in 0..20 {
            let operations: &[&Operation] = &[
                &|guest| guest.stat("d/../a", 0).map(|_| ()),
                &|guest| guest.stat("d/../b", 1).map(|_| ()),
                &|guest| guest.stat("d/out", 1).map(|_| ()),
                &|guest| guest.set_times("d/../a", 1, 1, 1, 5),
                &|guest| guest.mkdir("d/x"),
                &|guest| guest.rename("d/x", "d/y"),
                &|guest| guest.rename("d/missing", "d/y"),
                &|guest| guest.rmdir("d/y"),
                &|guest| guest.rmdir("d/."),
                &|guest| guest.link("d/../a", "d/b"),
                &|guest| guest.link("d/", "d/c"),
                &|guest| guest.unlink("d/b"),
                &|guest| guest.unlink("d/.."),
                &|guest| guest.symlink("x", "d/s"),
                &|guest| guest.readlink("d/s", 10).map(|_| ()),
                &|guest| guest.readlink("d/", 10).map(|_| ()),
                &|guest| guest.unlink("d/s"),
                &|guest| guest.open("d", CREAT, RW).map(|_| ()),
                &|guest| guest.open("missing", 0, RW).map(|_| ()),
                &|guest| guest.open("d/../a", 0, RW).and_then(|fd| guest.close(fd)),
                &|guest| guest.open("d", 0, READ).and_then(|fd| guest.close(fd)),
                &|guest| {
                    let (from, to) = (guest.open("a", 0, READ)?, guest.open("d", 0, READ)?);
                    guest.try_call(Function::fd_renumber, &[from.into(), to.into()])?;
                    guest.close(to)
                },
                &|guest| guest.try_call(Function::fd_readdir, &[DIR.into(), BUF.into(), 30, 0, OUT.into()]),
            ];
            for operation in operations {
                let _ = operation(&mut guest);
                assert_eq!(host_descriptors(), steady);
            }
        }
        let _left = (guest.open("a", 0, READ), guest.open("d", 0, READ));
    }
    assert_eq!(host_descriptors(), before);
}

#[test]
fn descriptors_do_not_pass_to_other_processes() {
    let _alone = alone();
    let (mut guest, _client) = rich();
    let opened = [guest.open("a", 0, RW).unwrap(), guest.open("d", DIRECTORY, READ).unwrap()];
    assert!(opened[0] > 3);
    for entry in std::fs::read_dir("/proc/self/fdinfo").unwrap() {
        let entry = entry.unwrap();
        let number: u32 = entry.file_name().to_str().unwrap().parse().unwrap();
        let target = std::fs::read_link(format!("/proc/self/fd/{number}")).unwrap_or_default();
        if !target.starts_with(guest.scratch.path()) {
            continue;
        }
        let info = std::fs::read_to_string(entry.path()).unwrap();
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap().trim();
        let flags = u32::from_str_radix(flags, 8).unwrap();
        assert!(flags & 0o2_000_000 != 0, "{} is closed on exec", target.display());
    }
}
