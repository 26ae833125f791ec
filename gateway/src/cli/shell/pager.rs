//! A pager of our own: another program would be a way out of the shell.

use std::io::{self, Write as _};

use nix::sys::termios::{LocalFlags, SetArg, SpecialCharacterIndices, Termios, tcgetattr, tcsetattr};

const MORE: &str = "\x1b[7m-- more: space, enter, q --\x1b[0m";
const MORE_PLAIN: &str = "-- more: space, enter, q --";

/// Shows a text page by page; `height` rows fit the terminal.
pub(super) fn show(text: &str, height: usize, colour: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let page = height.saturating_sub(1).max(1);
    let mut left = page;
    for line in text.lines() {
        if left == 0 {
            match ask(&mut out, colour)? {
                Key::Page => left = page,
                Key::Line => left = 1,
                Key::Quit => break,
            }
        }
        out.write_all(line.as_bytes())?;
        out.write_all(b"\n")?;
        left -= 1;
    }
    out.flush()
}

enum Key {
    Page,
    Line,
    Quit,
}

fn ask(out: &mut impl io::Write, colour: bool) -> io::Result<Key> {
    out.write_all(if colour { MORE } else { MORE_PLAIN }.as_bytes())?;
    out.flush()?;
    let raw = Raw::start()?;
    let mut byte = [0];
    let key = loop {
        // Past the buffer of the standard library: what is typed ahead belongs to the next line.
        if nix::unistd::read(io::stdin(), &mut byte)? == 0 {
            break Key::Quit;
        }
        match byte {
            [b' ' | b'f'] => break Key::Page,
            [b'\r' | b'\n' | b'j'] => break Key::Line,
            // Ctrl-C and Ctrl-D too.
            [b'q' | b'Q' | 3 | 4] => break Key::Quit,
            _ => {}
        }
    };
    drop(raw);
    out.write_all(b"\r\x1b[K")?;
    Ok(key)
}

/// A terminal that gives single keys, and gives Ctrl-C as one; back to what it was on drop.
struct Raw(Termios);

impl Raw {
    fn start() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut raw = before.clone();
        raw.local_flags.remove(LocalFlags::ECHO | LocalFlags::ICANON | LocalFlags::ISIG);
        for (index, value) in [(SpecialCharacterIndices::VMIN, 1), (SpecialCharacterIndices::VTIME, 0)] {
            set(&mut raw, index, value);
        }
        tcsetattr(io::stdin(), SetArg::TCSADRAIN, &raw)?;
        Ok(Self(before))
    }
}

#[expect(clippy::as_conversions, reason = "the index is an enum of the kernel's small numbers")]
fn set(termios: &mut Termios, index: SpecialCharacterIndices, value: u8) {
    if let Some(character) = termios.control_chars.get_mut(index as usize) {
        *character = value;
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // A terminal that is gone needs no restoring.
        tcsetattr(io::stdin(), SetArg::TCSADRAIN, &self.0).ok();
    }
}
