//! What the flags give to a guest.

use crate::peregrine::{guest, peregrine, run};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

/// The type of a directory and of a listening socket, as WASI numbers them.
const DIRECTORY: i32 = 3;
const STREAM_SOCKET: i32 = 6;
/// Error numbers of WASI.
const BAD_DESCRIPTOR: i32 = 8;

#[test]
fn arguments_follow_the_name() {
    run(&[], "args.wat", &["one", "--two", "-W"]).finish().code(0).stdout("args.wat\0one\0--two\0-W\0");
    run(&["--argv0", "me"], "args.wat", &["x"]).finish().code(0).stdout("me\0x\0");
}

#[test]
fn the_environment_is_empty_unless_granted() {
    run(&[], "environ.wat", &[]).env("SECRET", "1").finish().code(0).stdout("");
    run(&["--env", "A=b=c", "--env", "PASSED"], "environ.wat", &[]).env("PASSED", "on").finish().code(0).stdout("A=b=c\0PASSED=on\0");
    run(&["-S", "inherit-env"], "environ.wat", &[]).env("GRANTED", "yes").finish().code(0).says("GRANTED=yes\0");
    run(&["--env", "NOT_THERE"], "environ.wat", &[]).finish().code(1).complains("NOT_THERE");
}

#[test]
fn directories_are_granted_by_name() {
    run(&["--dir", "."], "cat.wat", &[]).file("file.txt", "content").finish().code(0).stdout("content");
    run(&["--dir", ".::/data"], "cat.wat", &[]).file("file.txt", "content").finish().code(0).stdout("content");
    run(&[], "cat.wat", &[]).file("file.txt", "content").finish().code(BAD_DESCRIPTOR).stdout("");
    run(&["--dir", "nowhere"], "cat.wat", &[]).finish().code(1).complains("nowhere");
    run(&["--dir", "."], "filetype.wat", &[]).finish().code(DIRECTORY);
}

#[test]
fn read_only_directories_are_read_only() {
    for flags in [["--dir-ro", "."], ["--dir", ".::.::ro"], ["--dir-ro", ".::/data"]] {
        run(&flags, "cat.wat", &[]).file("file.txt", "content").finish().code(0).stdout("content");
        let finished = run(&flags, "create.wat", &[]).finish();
        assert!(finished.code.is_some_and(|code| code != 0) && !finished.left("new.txt"), "{flags:?}: {:?}", finished.code);
    }
    assert!(run(&["--dir", "."], "create.wat", &[]).finish().code(0).left("new.txt"));
}

#[test]
fn descriptors_are_limited() {
    // Three streams and the directory, and no more.
    assert!(!run(&["--dir", ".", "-S", "max-open-files=4"], "create.wat", &[]).finish().code(33).left("new.txt"));
    assert!(run(&["--dir", ".", "-S", "max-open-files=5"], "create.wat", &[]).finish().code(0).left("new.txt"));
}

#[test]
fn listening_sockets_are_granted() {
    run(&["-S", "tcplisten=127.0.0.1:0"], "filetype.wat", &[]).finish().code(STREAM_SOCKET);
    run(&[], "filetype.wat", &[]).finish().code(100 + BAD_DESCRIPTOR);
    run(&["-S", "tcplisten=nonsense"], "filetype.wat", &[]).finish().code(2).complains("tcplisten");
}

#[test]
fn inherited_sockets_are_granted() {
    // The shell puts its standard input in the place where a service manager puts sockets.
    let inherit = |input: Stdio| {
        let guest = guest("filetype.wat");
        let script = format!("LISTEN_FDS=1 exec {} run -S listenfd {} 3<&0 </dev/null", env!("CARGO_BIN_EXE_peregrine"), guest.display());
        let output = Command::new("sh").args(["-c", &script]).stdin(input).output().expect("a shell");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let listener = TcpListener::bind("127.0.0.1:0").expect("a socket");
    assert_eq!(inherit(OwnedFd::from(listener).into()), (Some(STREAM_SOCKET), String::new()));
    let (code, text) = inherit(Stdio::null());
    assert_eq!(code, Some(1));
    assert!(text.contains("descriptor 3"), "{text}");
    run(&["-S", "listenfd"], "filetype.wat", &[]).finish().code(100 + BAD_DESCRIPTOR);
}

#[test]
fn wasi_can_be_left_out() {
    run(&["-S", "cli=n", "--invoke", "add"], "numbers.wat", &["2", "3"]).finish().code(0).stdout("5\n");
    peregrine(["run", "-S", "cli=n", "x.wat"])
        .file("x.wat", r#"(module (import "wasi_snapshot_preview1" "no_such" (func)) (func (export "_start")))"#)
        .finish()
        .code(1)
        .complains("has no function `no_such`");
}
