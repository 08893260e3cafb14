//! Files that changed so long ago that another change would show in their times: only those are remembered from start to start.

#![allow(dead_code, reason = "each test uses a part of it")]

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How long ago the last change of a file has to be, and the same where times are whole seconds.
const GRAIN: Duration = Duration::from_millis(100);
const COARSE_GRAIN: Duration = Duration::from_secs(2);

/// How often is looked whether a file is settled: after this, it never will.
const MOST_LOOKS: usize = 6_000;

/// Whether the last change of a file was so long ago.
pub fn is_settled(path: &Path) -> bool {
    let metadata = fs::metadata(path).expect("it is there");
    let changed = UNIX_EPOCH + Duration::new(metadata.ctime() as u64, metadata.ctime_nsec() as u32);
    let grain = if metadata.ctime_nsec() == 0 { COARSE_GRAIN } else { GRAIN };
    SystemTime::now().duration_since(changed).is_ok_and(|age| age > grain)
}

/// Waits until it is. Nothing makes a file older than it is, as programs cannot set the time of a change of status.
///
/// # Panics
/// If that is never.
pub fn settle(path: &Path) {
    for _ in 0..MOST_LOOKS {
        if is_settled(path) {
            return;
        }
        std::thread::sleep(GRAIN / 10);
    }
    panic!("{} is not settled: does its file system have another time?", path.display());
}

/// Does `work` with a file that changed just now, and looks at what came of it. Another try is made if the file was settled by the end of it: the
/// machine was busy with other things.
///
/// # Panics
/// If no try is fast enough.
pub fn while_unsettled<T>(path: &Path, mut work: impl FnMut() -> T) -> T {
    let result = (0..100).find_map(|_| {
        let permissions = fs::metadata(path).expect("it is there").permissions();
        fs::set_permissions(path, permissions).expect("it is a file of our own");
        let result = work();
        (!is_settled(path)).then_some(result)
    });
    result.expect("one of many tries takes less time than a file needs to settle")
}
