//! A pickle machine that builds descriptions and runs nothing.
//!
//! The stack machine is CPython's (Lib/pickletools.py describes it), with three differences: GLOBAL resolves only names
//! of a list, REDUCE, NEWOBJ and BUILD write the call down instead of making it, and every length is checked against
//! the bytes that remain before it is believed.

use super::{
    globals::{Known, Meaning},
    opcode as op,
    value::{Arena, Call, Id, Value},
};
use crate::{Error, error::quoted};
use std::path::Path;

/// The longest pickle that is read. A state dict takes about 100 bytes per tensor, an optimizer three times that.
pub(super) const MAX_BYTES: usize = 16 << 20;
/// The most values and memo slots. A tensor takes about ten.
const MAX_VALUES: usize = 1 << 21;
/// The newest protocol, of Python 3.8.
const MAX_PROTOCOL: u8 = 5;

/// Why a pickle was refused.
#[derive(Debug)]
pub(super) enum PickleError {
    /// Not a pickle, a cut one, or one with other opcodes than torch writes.
    Damaged { at: usize, expected: String, found: String },
    /// It names a class or function off the list.
    Forbidden { at: usize, global: String },
}

impl PickleError {
    /// The same as the crate's error; `place` names the stream inside the file at `path`.
    pub(super) fn within(self, path: &Path, place: &str) -> Error {
        match self {
            PickleError::Damaged { at, expected, found } => {
                Error::damaged(path, format!("{place}, byte {at}"), expected, found)
            }
            PickleError::Forbidden { at, global } => {
                Error::Forbidden { path: path.to_owned(), place: format!("{place}, byte {at}"), global }
            }
        }
    }
}

type Step<T> = Result<T, PickleError>;

/// A pickle that was read to its STOP.
#[derive(Debug)]
pub(super) struct Parsed<'a> {
    pub arena: Arena<'a>,
    pub root: Id,
    /// Bytes up to and with STOP.
    pub length: usize,
}

/// Reads one pickle from the beginning of `bytes`; `known` lists what it may name.
///
/// Time is linear in the pickle, memory at most about ten times its size and never more than about 200 MB, whatever it
/// says.
pub(super) fn parse<'a>(bytes: &'a [u8], known: &[&'static [Known]]) -> Step<Parsed<'a>> {
    let input = &bytes[..bytes.len().min(MAX_BYTES)];
    let mut machine = Machine {
        input,
        at: 0,
        opcode_at: 0,
        stack: Vec::new(),
        marks: Vec::new(),
        memo: Vec::new(),
        memoized: 0,
        attributes_left: MAX_VALUES,
        arena: Arena::default(),
        known,
    };
    // Shared by all opcodes that push them: the ids NONE, FALSE, TRUE and EMPTY_TUPLE.
    let constants = [Value::None, Value::Bool(false), Value::Bool(true), Value::Tuple { start: 0, len: 0 }];
    machine.arena.values.extend(constants);
    let root = machine.run()?;
    Ok(Parsed { arena: machine.arena, root, length: machine.at })
}

const NONE: Id = Id(0);
const FALSE: Id = Id(1);
const TRUE: Id = Id(2);
const EMPTY_TUPLE: Id = Id(3);

struct Machine<'a, 'k> {
    input: &'a [u8],
    at: usize,
    opcode_at: usize,
    stack: Vec<Id>,
    /// Heights of the stack at each MARK.
    marks: Vec<u32>,
    memo: Vec<Option<Id>>,
    /// How many slots were filled, which is the slot that MEMOIZE takes.
    memoized: usize,
    /// How many attributes BUILD may still look at.
    attributes_left: usize,
    arena: Arena<'a>,
    known: &'k [&'static [Known]],
}

impl<'a> Machine<'a, '_> {
    fn run(&mut self) -> Step<Id> {
        loop {
            self.opcode_at = self.at;
            let opcode = self.byte()?;
            match opcode {
                op::PROTO => match self.byte()? {
                    0..=MAX_PROTOCOL => {}
                    newer => return self.damaged("a pickle protocol up to 5", format!("protocol {newer}")),
                },
                op::FRAME => {
                    let length = self.argument(opcode)?;
                    self.check_remaining(length)?;
                }
                op::STOP => return self.pop(),
                op::MARK => self.marks.push(self.stack.len() as u32),
                op::POP => _ = self.pop()?,
                op::POP_MARK => {
                    let from = self.mark()?;
                    self.stack.truncate(from);
                }

                op::NONE => self.stack.push(NONE),
                op::NEWTRUE => self.stack.push(TRUE),
                op::NEWFALSE => self.stack.push(FALSE),
                op::BININT => {
                    let value = i32::from_le_bytes(self.array()?);
                    self.push(Value::Int(value.into()))?;
                }
                op::BININT1 | op::BININT2 => {
                    let value = self.argument(opcode)? as i64;
                    self.push(Value::Int(value))?;
                }
                op::LONG1 | op::LONG4 => {
                    let bytes = self.counted(opcode)?;
                    self.long(bytes)?;
                }
                op::BINFLOAT => {
                    let value = f64::from_be_bytes(self.array()?);
                    self.push(Value::Float(value))?;
                }
                op::SHORT_BINUNICODE | op::BINUNICODE | op::BINUNICODE8 => {
                    match std::str::from_utf8(self.counted(opcode)?) {
                        Ok(text) => self.push(Value::Str(text))?,
                        // Python's "surrogatepass" strings name nothing that is looked up here.
                        Err(_) => return self.damaged("UTF-8 text", "other bytes"),
                    }
                }
                op::SHORT_BINSTRING | op::BINSTRING => {
                    let text = std::str::from_utf8(self.counted(opcode)?);
                    self.push(text.map_or(Value::Bytes, Value::Str))?;
                }
                op::SHORT_BINBYTES | op::BINBYTES | op::BINBYTES8 | op::BYTEARRAY8 => {
                    self.counted(opcode)?;
                    self.push(Value::Bytes)?;
                }

                op::EMPTY_TUPLE => self.stack.push(EMPTY_TUPLE),
                op::TUPLE1 | op::TUPLE2 | op::TUPLE3 => {
                    let from = self.top_values(usize::from(opcode - op::TUPLE1) + 1)?;
                    self.tuple(from)?;
                }
                op::TUPLE | op::FROZENSET => {
                    let from = self.mark()?;
                    self.tuple(from)?;
                }
                op::EMPTY_LIST | op::EMPTY_SET => {
                    let index = self.arena.lists.len() as u32;
                    self.push(Value::List(index))?;
                    self.arena.lists.push(Vec::new());
                }
                op::APPEND => {
                    let from = self.top_values(1)?;
                    self.extend_list(from)?;
                }
                op::APPENDS | op::ADDITEMS => {
                    let from = self.mark()?;
                    self.extend_list(from)?;
                }
                op::EMPTY_DICT => {
                    let index = self.arena.dicts.len() as u32;
                    self.push(Value::Dict(index))?;
                    self.arena.dicts.push(Vec::new());
                }
                op::SETITEM => {
                    let from = self.top_values(2)?;
                    self.extend_dict(from)?;
                }
                op::SETITEMS => {
                    let from = self.mark()?;
                    self.extend_dict(from)?;
                }

                op::BINPUT | op::LONG_BINPUT => {
                    let slot = self.argument(opcode)?;
                    self.put(slot as usize)?;
                }
                op::MEMOIZE => self.put(self.memoized)?,
                op::BINGET | op::LONG_BINGET => {
                    let slot = self.argument(opcode)?;
                    self.fetch(slot as usize)?;
                }

                op::GLOBAL => {
                    let module = self.line()?;
                    let name = self.line()?;
                    self.global(module, name)?;
                }
                op::STACK_GLOBAL => {
                    let (name, module) = (self.pop()?, self.pop()?);
                    match (self.arena.str(module), self.arena.str(name)) {
                        (Some(module), Some(name)) => self.global(module, name)?,
                        _ => return self.damaged("two strings that name a global", self.arena.describe(name)),
                    }
                }
                op::REDUCE | op::NEWOBJ => {
                    let arguments = self.pop()?;
                    let function = self.pop()?;
                    self.call(function, arguments)?;
                }
                op::BUILD => {
                    let state = self.pop()?;
                    self.build(state)?;
                }
                op::BINPERSID => {
                    let description = self.pop()?;
                    self.push(Value::Persistent(description))?;
                }

                _ => {
                    let found = match op::refused(opcode) {
                        Some(name) => format!("the opcode {name}"),
                        None => format!("the byte 0x{opcode:02x}"),
                    };
                    return self.damaged("a pickle opcode that torch.save writes", found);
                }
            }
        }
    }

    fn damaged<T>(&self, expected: impl Into<String>, found: impl Into<String>) -> Step<T> {
        Err(PickleError::Damaged { at: self.opcode_at, expected: expected.into(), found: found.into() })
    }

    fn check_remaining(&self, length: u64) -> Step<usize> {
        let left = self.input.len() - self.at;
        match usize::try_from(length) {
            Ok(length) if length <= left => Ok(length),
            _ if self.input.len() == MAX_BYTES => {
                self.damaged(format!("a pickle of at most {MAX_BYTES} bytes"), "a longer one")
            }
            _ => self.damaged(format!("{length} more bytes"), format!("{left}, the pickle ends there")),
        }
    }

    fn take(&mut self, length: u64) -> Step<&'a [u8]> {
        let length = self.check_remaining(length)?;
        let taken = &self.input[self.at..self.at + length];
        self.at += length;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Step<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N as u64)?);
        Ok(array)
    }

    fn byte(&mut self) -> Step<u8> {
        Ok(self.array::<1>()?[0])
    }

    /// The unsigned integer after `opcode`. The two signed lengths (LONG4, BINSTRING) are read so too: where they are
    /// negative, they exceed any pickle.
    fn argument(&mut self, opcode: u8) -> Step<u64> {
        Ok(match opcode {
            op::BINUNICODE | op::BINBYTES | op::BINSTRING | op::LONG4 | op::LONG_BINPUT | op::LONG_BINGET => {
                u32::from_le_bytes(self.array()?).into()
            }
            op::FRAME | op::BINUNICODE8 | op::BINBYTES8 | op::BYTEARRAY8 => u64::from_le_bytes(self.array()?),
            op::BININT2 => u16::from_le_bytes(self.array()?).into(),
            _ => self.byte()?.into(),
        })
    }

    /// The bytes after `opcode` and a length.
    fn counted(&mut self, opcode: u8) -> Step<&'a [u8]> {
        let length = self.argument(opcode)?;
        self.take(length)
    }

    /// The text up to the next newline, without it.
    fn line(&mut self) -> Step<&'a str> {
        let rest = &self.input[self.at..];
        match rest.iter().position(|&b| b == b'\n').map(|end| std::str::from_utf8(&rest[..end])) {
            Some(Ok(line)) => {
                self.at += line.len() + 1;
                Ok(line)
            }
            _ => self.damaged("a line of UTF-8 text", "none"),
        }
    }

    fn push(&mut self, value: Value<'a>) -> Step<()> {
        let index = self.arena.values.len();
        if index >= MAX_VALUES {
            return self.damaged(format!("at most {MAX_VALUES} values"), "more");
        }
        self.arena.values.push(value);
        self.stack.push(Id(index as u32));
        Ok(())
    }

    /// The height of the stack at the last MARK: what lies below is out of reach.
    fn floor(&self) -> usize {
        self.marks.last().map_or(0, |&height| height as usize)
    }

    fn pop(&mut self) -> Step<Id> {
        let top = self.top()?;
        self.stack.pop();
        Ok(top)
    }

    fn top(&self) -> Step<Id> {
        match self.stack.last() {
            Some(&id) if self.stack.len() > self.floor() => Ok(id),
            _ => self.damaged("a value on the stack", "none"),
        }
    }

    fn mark(&mut self) -> Step<usize> {
        match self.marks.pop() {
            Some(height) => Ok(height as usize),
            None => self.damaged("a mark on the stack", "none"),
        }
    }

    fn long(&mut self, bytes: &'a [u8]) -> Step<()> {
        self.push(match bytes {
            [] => Value::Int(0),
            [.., last] if bytes.len() <= 8 => {
                let mut extended = [if last & 0x80 == 0 { 0 } else { 0xff }; 8];
                extended[..bytes.len()].copy_from_slice(bytes);
                Value::Int(i64::from_le_bytes(extended))
            }
            _ => Value::Long(bytes),
        })
    }

    /// The height of the stack below its `count` topmost values.
    fn top_values(&self, count: usize) -> Step<usize> {
        match self.stack.len().checked_sub(count) {
            Some(from) if from >= self.floor() => Ok(from),
            _ => self.damaged(format!("{count} values on the stack"), "fewer"),
        }
    }

    /// Makes a tuple of the stack from height `from` on.
    fn tuple(&mut self, from: usize) -> Step<()> {
        // Both fit: the pool holds at most one id per byte of the pickle.
        let (start, len) = (self.arena.pool.len() as u32, (self.stack.len() - from) as u32);
        self.arena.pool.extend(self.stack.drain(from..));
        self.push(Value::Tuple { start, len })
    }

    /// The container just below height `from`, to which what lies above is added.
    fn container(&self, from: usize) -> Step<Id> {
        match from.checked_sub(1).filter(|&at| at >= self.floor()).and_then(|at| self.stack.get(at)) {
            Some(&id) => Ok(id),
            None => self.damaged("a value on the stack", "none"),
        }
    }

    fn extend_list(&mut self, from: usize) -> Step<()> {
        let target = self.container(from)?;
        let Value::List(list) = self.arena.get(target) else {
            return self.damaged("a list to append to", self.arena.describe(target));
        };
        self.arena.lists[list as usize].extend(self.stack.drain(from..));
        Ok(())
    }

    fn extend_dict(&mut self, from: usize) -> Step<()> {
        let target = self.container(from)?;
        let dict = match self.arena.get(target) {
            Value::Dict(dict) => &mut self.arena.dicts[dict as usize],
            Value::Call(call) if matches!(self.arena.calls[call as usize].function.meaning, Meaning::Mapping) => {
                &mut self.arena.calls[call as usize].items
            }
            _ => return self.damaged("a dict to add to", self.arena.describe(target)),
        };
        let (pairs, odd) = self.stack[from..].as_chunks::<2>();
        if !odd.is_empty() {
            return self.damaged("a value for each key", "a key alone");
        }
        dict.extend(pairs.iter().map(|[key, value]| (*key, *value)));
        self.stack.truncate(from);
        Ok(())
    }

    fn put(&mut self, slot: usize) -> Step<()> {
        let top = self.top()?;
        if slot >= MAX_VALUES {
            return self.damaged(format!("a memo slot below {MAX_VALUES}"), slot.to_string());
        }
        if slot >= self.memo.len() {
            self.memo.resize(slot + 1, None);
        }
        if self.memo[slot].replace(top).is_none() {
            self.memoized += 1;
        }
        Ok(())
    }

    fn fetch(&mut self, slot: usize) -> Step<()> {
        match self.memo.get(slot) {
            Some(Some(id)) => {
                self.stack.push(*id);
                Ok(())
            }
            _ => self.damaged("a memo slot that was filled", format!("slot {slot}")),
        }
    }

    fn global(&mut self, module: &str, name: &str) -> Step<()> {
        match self.known.iter().flat_map(|rows| rows.iter()).find(|row| row.module == module && row.name == name) {
            Some(known) => self.push(Value::Global(known)),
            None => {
                let global = format!("{}.{}", quoted(module), quoted(name));
                Err(PickleError::Forbidden { at: self.opcode_at, global })
            }
        }
    }

    fn call(&mut self, function: Id, arguments: Id) -> Step<()> {
        let Value::Global(function) = self.arena.get(function) else {
            return self.damaged("a global to call", self.arena.describe(function));
        };
        if self.arena.tuple(arguments).is_none() {
            return self.damaged("a tuple of arguments", self.arena.describe(arguments));
        }
        let index = self.arena.calls.len() as u32;
        self.push(Value::Call(index))?;
        self.arena.calls.push(Call { function, arguments, state: None, items: Vec::new() });
        Ok(())
    }

    /// Notes `state` as the state of the object on top. Attributes that would change what the object *is* are refused:
    /// no honest writer sets them.
    fn build(&mut self, state: Id) -> Step<()> {
        let target = self.top()?;
        let Value::Call(call) = self.arena.get(target) else {
            return self.damaged("an object to give a state to", self.arena.describe(target));
        };
        let attributes = self.arena.items(state).unwrap_or_default();
        // One large state given to many objects would make this quadratic.
        let Some(left) = self.attributes_left.checked_sub(attributes.len()) else {
            return self.damaged(format!("at most {MAX_VALUES} attributes"), "more");
        };
        self.attributes_left = left;
        for &(key, _) in attributes {
            match self.arena.str(key) {
                Some(name) if name.starts_with("__") => {
                    let found = format!("`{}`", quoted(name));
                    return self.damaged("plain attributes in an object's state", found);
                }
                _ => {}
            }
        }
        self.arena.calls[call as usize].state = Some(state);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{super::globals::CHECKPOINT, *};

    fn parse_ok(bytes: &[u8]) -> Parsed<'_> {
        parse(bytes, &[CHECKPOINT]).expect("a sound pickle")
    }

    fn refusal(bytes: &[u8]) -> String {
        parse(bytes, &[CHECKPOINT]).expect_err("a refusal").within(Path::new("f"), "p").to_string()
    }

    #[test]
    fn integers_of_every_width_keep_their_sign() {
        let cases: [(&[u8], i64); 8] = [
            (b"K\xff.", 255),
            (b"M\xff\xff.", 65535),
            (b"J\xff\xff\xff\xff.", -1),
            (b"\x8a\x00.", 0),
            (b"\x8a\x01\xff.", -1),
            (b"\x8a\x02\xff\x00.", 255),
            (b"\x8a\x08\x00\x00\x00\x00\x00\x00\x00\x80.", i64::MIN),
            (b"\x8b\x01\x00\x00\x00\x7f.", 127),
        ];
        for (bytes, expected) in cases {
            let parsed = parse_ok(bytes);
            assert_eq!(parsed.arena.int(parsed.root), Some(expected), "{bytes:x?}");
        }
    }

    #[test]
    fn marks_guard_what_lies_below_them() {
        assert!(refusal(b"K\x01(0.").contains("value on the stack"));
        assert!(refusal(b"K\x01(\x85.").contains("1 values on the stack"));
        assert!(refusal(b"]K\x01K\x02(a.").contains("1 values on the stack"));
        assert!(refusal(b"](K\x01(e.").contains("a list to append to"));
        assert!(refusal(b"](((u.").contains("a value on the stack"));
        assert!(refusal(b"t.").contains("mark"));
    }

    #[test]
    fn memoize_takes_the_next_slot_after_numbered_puts() {
        let parsed = parse_ok(b"K\x01q\x000K\x02\x940h\x01.");
        assert_eq!(parsed.arena.int(parsed.root), Some(2));
    }

    #[test]
    fn calls_are_recorded_and_never_resolved_beyond_the_list() {
        let parsed = parse_ok(b"ccollections\nOrderedDict\n)RX\x01\x00\x00\x00aK\x07s.");
        let value = parsed.arena.lookup(parsed.root, "a").expect("the key");
        assert_eq!(parsed.arena.int(value), Some(7));
        assert!(refusal(b"cos\nsystem\n.").contains("`os.system`"));
        assert!(refusal(b"\x8c\x08builtins\x8c\x04eval\x93.").contains("`builtins.eval`"));
        assert!(refusal(b"]]R.").contains("a global to call"));
        assert!(refusal(b"ccollections\nOrderedDict\n]R.").contains("a tuple of arguments"));
    }

    #[test]
    fn lengths_are_checked_before_they_are_used() {
        assert!(refusal(b"X\xff\xff\xff\x7fabc").contains("2147483647 more bytes"));
        assert!(refusal(b"\x8d\xff\xff\xff\xff\xff\xff\xff\xffabc").contains("found 3"));
        assert!(refusal(b"\x95\xff\x00\x00\x00\x00\x00\x00\x00N.").contains("255 more bytes"));
        assert!(refusal(b"Nr\xff\xff\xff\xff.").contains("memo slot"));
    }

    #[test]
    fn values_are_counted() {
        let many = vec![b'}'; MAX_VALUES + 1];
        assert!(refusal(&many).contains("at most 2097152 values"));
    }
}
