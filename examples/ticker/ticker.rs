// SPDX-License-Identifier: Apache-2.0
//! Prints a numbered line once a second until it is ended.
//!
//! Everything that can fail at the start happens in `weft_ready`: an app with a setting that
//! makes no sense is never announced as ready.

use std::io::{self, Write};
use std::sync::Mutex;
use std::time::Duration;
use std::{env, process, thread};

/// The exit status for settings that make no sense, as for a wrong command line.
const BAD_SETTING: i32 = 2;

/// What `weft_ready` prepares and `main` uses: both see the same memory.
static INTERVAL: Mutex<Option<Duration>> = Mutex::new(None);

/// Called by the runtime before `_start`; READY is sent when it has returned.
#[no_mangle]
pub extern "C" fn weft_ready() {
    *INTERVAL.lock().unwrap() = Some(read_interval());
}

fn main() {
    // A runtime that does not know `weft_ready` has not called it.
    let prepared = *INTERVAL.lock().unwrap();
    let interval = prepared.unwrap_or_else(read_interval);
    let mut stdout = io::stdout();
    for number in 1u64.. {
        // Whoever reads the output wants each line when it is written.
        if writeln!(stdout, "tick {number}").and_then(|()| stdout.flush()).is_err() {
            process::exit(1); // nobody reads us any more
        }
        thread::sleep(interval);
    }
}

fn read_interval() -> Duration {
    let text = env::var("TICKER_INTERVAL_MS").unwrap_or_else(|_| "1000".to_string());
    match text.parse::<u32>() {
        Ok(milliseconds) if milliseconds > 0 => Duration::from_millis(milliseconds.into()),
        _ => {
            eprintln!("TICKER_INTERVAL_MS: not a number of milliseconds above 0: {text:?}");
            process::exit(BAD_SETTING);
        }
    }
}
