//! Keys that a command prints. What it prints on standard output is never shown; what it
//! says on standard error is, without anything that looks like a key.

use std::{
    io::Read,
    os::unix::process::CommandExt as _,
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process_group};
use zeroize::Zeroizing;

use super::super::{SettingsError, wrong};

/// How long a command may take.
const TIME_MAX: Duration = Duration::from_secs(30);
/// What is read of its output.
const BYTES_MAX: u64 = 64 * 1024;
/// What is shown of its words.
const WORDS_MAX: usize = 300;

/// Runs a command line through `sh -c` and returns what it printed.
pub(super) fn read(variable: &'static str, line: &str) -> Result<Zeroizing<String>, SettingsError> {
    read_within(variable, line, TIME_MAX)
}

fn read_within(
    variable: &'static str,
    line: &str,
    time_max: Duration,
) -> Result<Zeroizing<String>, SettingsError> {
    let child = Command::new("sh")
        .args(["-c", line])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // A group of its own, so that what it starts ends with it.
        .process_group(0)
        .spawn();
    let mut child =
        child.map_err(|error| wrong(variable, format!("cannot be run (sh: {error})")))?;
    let deadline = Instant::now() + time_max;
    let printed = collect(child.stdout.take());
    let said = collect(child.stderr.take());
    let in_time = |receiver: &mpsc::Receiver<Zeroizing<Vec<u8>>>| {
        receiver
            .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            .ok()
    };
    // Both end when everything that holds them has ended.
    let (printed, said) = (in_time(&printed), in_time(&said));
    let (Some(printed), Some(said), Some(status)) = (printed, said, ended(&mut child, deadline))
    else {
        end(&mut child);
        return Err(wrong(
            variable,
            format!("did not end within {} s", time_max.as_secs()),
        ));
    };
    if !status.success() {
        return Err(wrong(
            variable,
            format!("ended with {status} (it said: {})", words(&said)),
        ));
    }
    let printed = std::str::from_utf8(&printed)
        .map_err(|_| wrong(variable, "prints what is no text: it must print keys"))?;
    Ok(Zeroizing::new(printed.to_owned()))
}

/// Reads a pipe to its end, beside this thread.
fn collect(pipe: Option<impl Read + Send + 'static>) -> mpsc::Receiver<Zeroizing<Vec<u8>>> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Zeroizing::new(Vec::new());
        if let Some(mut pipe) = pipe {
            // What can't be read is missing, and then it is no key.
            let _ = pipe.by_ref().take(BYTES_MAX).read_to_end(&mut bytes);
            let _ = std::io::copy(&mut pipe, &mut std::io::sink());
        }
        let _ = sender.send(bytes);
    });
    receiver
}

/// Waits for the end of a process whose output has ended.
fn ended(child: &mut Child, deadline: Instant) -> Option<ExitStatus> {
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status),
            Ok(None) if Instant::now() < deadline => thread::sleep(Duration::from_millis(5)),
            _ => return None,
        }
    }
}

fn end(child: &mut Child) {
    if let Some(group) = Pid::from_raw(child.id() as i32) {
        let _ = kill_process_group(group, Signal::KILL);
    }
    let _ = child.wait();
}

/// What a command said: one line, not long, and nothing that looks like a key.
fn words(said: &[u8]) -> String {
    let said = String::from_utf8_lossy(said);
    let mut words = Vec::new();
    for word in said.split_whitespace() {
        let digits = word.chars().filter(char::is_ascii_hexdigit).count();
        words.push(if digits >= 64 { "[a key]" } else { word });
    }
    let mut line = words.join(" ");
    line.retain(|c| !c.is_control());
    if let Some((at, _)) = line.char_indices().nth(WORDS_MAX) {
        line.truncate(at);
        line.push_str("...");
    }
    if line.is_empty() {
        "nothing".to_owned()
    } else {
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_does_not_end_is_ended_with_all_it_started() {
        let begun = Instant::now();
        let line = "sleep 600 & sleep 600";
        let error = read_within("V", line, Duration::from_millis(200)).expect_err("too long");
        assert_eq!(error.to_string(), "V did not end within 0 s");
        assert!(begun.elapsed() < Duration::from_secs(20));
    }

    #[test]
    fn output_beyond_the_limit_does_not_stall_the_command() {
        let text = read("V", "head -c 1000000 /dev/zero | tr '\\0' x").expect("printed");
        assert_eq!(text.len() as u64, BYTES_MAX);
    }
}
