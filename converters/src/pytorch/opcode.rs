//! The pickle opcodes that torch.save writes, protocols 2 to 5.
//!
//! Codes and semantics: CPython, Lib/pickletools.py. Which of them occur in checkpoints: PyTorch,
//! torch/_weights_only_unpickler.py (protocol 2), and what CPython's pickler writes for the same objects in protocols
//! 4 and 5 (framing, memoize, short strings, sets).

pub(super) const PROTO: u8 = 0x80; //            u8 version
pub(super) const FRAME: u8 = 0x95; //            u64 length; a hint for buffered readers
pub(super) const STOP: u8 = b'.'; //             value -> result
pub(super) const MARK: u8 = b'('; //             -> mark
pub(super) const POP: u8 = b'0'; //              value ->
pub(super) const POP_MARK: u8 = b'1'; //         mark values ->

pub(super) const NONE: u8 = b'N';
pub(super) const NEWTRUE: u8 = 0x88;
pub(super) const NEWFALSE: u8 = 0x89;
pub(super) const BININT: u8 = b'J'; //           i32
pub(super) const BININT1: u8 = b'K'; //          u8
pub(super) const BININT2: u8 = b'M'; //          u16
pub(super) const LONG1: u8 = 0x8a; //            u8 length, two's complement
pub(super) const LONG4: u8 = 0x8b; //            i32 length, two's complement
pub(super) const BINFLOAT: u8 = b'G'; //         f64, big-endian
pub(super) const SHORT_BINSTRING: u8 = b'U'; //  u8 length, bytes of Python 2
pub(super) const BINSTRING: u8 = b'T'; //        i32 length, bytes of Python 2
pub(super) const SHORT_BINUNICODE: u8 = 0x8c; // u8 length, UTF-8
pub(super) const BINUNICODE: u8 = b'X'; //       u32 length, UTF-8
pub(super) const BINUNICODE8: u8 = 0x8d; //      u64 length, UTF-8
pub(super) const SHORT_BINBYTES: u8 = b'C'; //   u8 length
pub(super) const BINBYTES: u8 = b'B'; //         u32 length
pub(super) const BINBYTES8: u8 = 0x8e; //        u64 length
pub(super) const BYTEARRAY8: u8 = 0x96; //       u64 length

pub(super) const EMPTY_TUPLE: u8 = b')';
pub(super) const TUPLE1: u8 = 0x85; //           a -> (a,)
pub(super) const TUPLE2: u8 = 0x86; //           a b -> (a, b)
pub(super) const TUPLE3: u8 = 0x87; //           a b c -> (a, b, c)
pub(super) const TUPLE: u8 = b't'; //            mark values -> tuple
pub(super) const EMPTY_LIST: u8 = b']';
pub(super) const APPEND: u8 = b'a'; //           list value -> list
pub(super) const APPENDS: u8 = b'e'; //          list mark values -> list
pub(super) const EMPTY_DICT: u8 = b'}';
pub(super) const SETITEM: u8 = b's'; //          dict key value -> dict
pub(super) const SETITEMS: u8 = b'u'; //         dict mark key value ... -> dict
pub(super) const EMPTY_SET: u8 = 0x8f;
pub(super) const ADDITEMS: u8 = 0x90; //         set mark values -> set
pub(super) const FROZENSET: u8 = 0x91; //        mark values -> frozenset

pub(super) const BINPUT: u8 = b'q'; //           u8 slot: memo[slot] = top
pub(super) const LONG_BINPUT: u8 = b'r'; //      u32 slot
pub(super) const MEMOIZE: u8 = 0x94; //          memo[next slot] = top
pub(super) const BINGET: u8 = b'h'; //           u8 slot -> value
pub(super) const LONG_BINGET: u8 = b'j'; //      u32 slot -> value

pub(super) const GLOBAL: u8 = b'c'; //           "module\nname\n" -> global
pub(super) const STACK_GLOBAL: u8 = 0x93; //     module name -> global
pub(super) const REDUCE: u8 = b'R'; //           global arguments -> global(*arguments)
pub(super) const NEWOBJ: u8 = 0x81; //           global arguments -> global.__new__(*arguments)
pub(super) const BUILD: u8 = b'b'; //            object state -> object with that state
pub(super) const BINPERSID: u8 = b'Q'; //        id -> what the file keeps outside the pickle: a storage

/// Opcodes that exist but that torch never writes, named for the error message.
pub(super) fn refused(opcode: u8) -> Option<&'static str> {
    Some(match opcode {
        b'2' => "DUP",
        b'F' => "FLOAT",
        b'I' => "INT",
        b'L' => "LONG",
        b'P' => "PERSID",
        b'S' => "STRING",
        b'V' => "UNICODE",
        b'd' => "DICT",
        b'g' => "GET",
        b'i' => "INST",
        b'l' => "LIST",
        b'o' => "OBJ",
        b'p' => "PUT",
        0x82 => "EXT1",
        0x83 => "EXT2",
        0x84 => "EXT4",
        0x92 => "NEWOBJ_EX",
        0x97 => "NEXT_BUFFER",
        0x98 => "READONLY_BUFFER",
        _ => return None,
    })
}
