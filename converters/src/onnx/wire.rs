//! Protobuf as it lies in a file: fields one after the other, borrowed. Unlike a decoded message this takes no memory, so
//! that a file of a billion empty nodes is as harmless as any other.

use prost::encoding::{WireType, decode_key, decode_varint};

/// The value of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field<'a> {
    /// A number of any width, or a truth value.
    Number(u64),
    /// A string, bytes, a message or packed numbers.
    Bytes(&'a [u8]),
    /// Four or eight bytes, which no field that is read here has.
    Fixed,
}

/// The fields of a message by number. Ends with an error where the bytes are no message.
pub struct Fields<'a> {
    rest: &'a [u8],
}

/// Bytes that are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoMessage;

impl<'a> Fields<'a> {
    pub fn new(message: &'a [u8]) -> Fields<'a> {
        Fields { rest: message }
    }

    fn field(&mut self) -> Result<(u32, Field<'a>), NoMessage> {
        let (number, wire_type) = decode_key(&mut self.rest).map_err(|_| NoMessage)?;
        let length = match wire_type {
            WireType::Varint => {
                return decode_varint(&mut self.rest).map(|n| (number, Field::Number(n))).map_err(|_| NoMessage);
            }
            WireType::LengthDelimited => decode_varint(&mut self.rest).map_err(|_| NoMessage)?,
            WireType::ThirtyTwoBit => 4,
            WireType::SixtyFourBit => 8,
            WireType::StartGroup | WireType::EndGroup => return Err(NoMessage),
        };
        let length = usize::try_from(length).map_err(|_| NoMessage)?;
        let (bytes, rest) = self.rest.split_at_checked(length).ok_or(NoMessage)?;
        self.rest = rest;
        Ok((number, if wire_type == WireType::LengthDelimited { Field::Bytes(bytes) } else { Field::Fixed }))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u32, Field<'a>), NoMessage>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.rest = &[];
        }
        Some(field)
    }
}

/// The numbers of a repeated field: one, or many packed.
pub fn numbers(field: Field<'_>) -> Result<Vec<u64>, NoMessage> {
    match field {
        Field::Number(n) => Ok(vec![n]),
        Field::Fixed => Err(NoMessage),
        Field::Bytes(mut packed) => {
            let mut list = Vec::new();
            while !packed.is_empty() {
                list.push(decode_varint(&mut packed).map_err(|_| NoMessage)?);
            }
            Ok(list)
        }
    }
}
