//! Colors of the page and its pictures: what each stands for, by daylight and in the dark.

use plotters::style::RGBColor;

/// A color with a purpose. Pictures are drawn in the light ones; in the dark, the page's style puts the others in their
/// place, so no two may be alike.
pub struct Color {
    pub name: &'static str,
    light: (u8, u8, u8),
    dark: (u8, u8, u8),
}

pub const INK: &Color = &Color { name: "ink", light: (0x1c, 0x1f, 0x24), dark: (0xec, 0xee, 0xf1) };
pub const MUTED: &Color = &Color { name: "muted", light: (0x5b, 0x62, 0x6d), dark: (0xa3, 0xab, 0xb7) };
pub const LINE: &Color = &Color { name: "line", light: (0xde, 0xe2, 0xe7), dark: (0x34, 0x3a, 0x44) };
pub const REFERENCE: &Color = &Color { name: "reference", light: (0x7d, 0x86, 0x93), dark: (0x93, 0x9d, 0xab) };
pub const CANDIDATE: &Color = &Color { name: "candidate", light: (0x1f, 0x68, 0xd6), dark: (0x6c, 0xa6, 0xf8) };
pub const FLOOR: &Color = &Color { name: "floor", light: (0xb4, 0x53, 0x09), dark: (0xf0, 0x9a, 0x4a) };

/// For kinds of things: mixers, types.
pub const KINDS: [&Color; 6] = [
    &Color { name: "kind-0", light: (0x1f, 0x68, 0xd5), dark: (0x6c, 0xa6, 0xf7) },
    &Color { name: "kind-1", light: (0xd9, 0x5f, 0x1e), dark: (0xf4, 0x93, 0x5c) },
    &Color { name: "kind-2", light: (0x14, 0x8f, 0x6d), dark: (0x47, 0xc6, 0x9f) },
    &Color { name: "kind-3", light: (0x83, 0x52, 0xc8), dark: (0xb7, 0x94, 0xf0) },
    &Color { name: "kind-4", light: (0xc0, 0x3d, 0x78), dark: (0xee, 0x86, 0xb1) },
    &Color { name: "kind-5", light: (0x8f, 0x71, 0x0a), dark: (0xd3, 0xb3, 0x4b) },
];

impl Color {
    /// What pictures are drawn in.
    pub fn rgb(&self) -> RGBColor {
        let (r, g, b) = self.light;
        RGBColor(r, g, b)
    }
}

fn all() -> impl Iterator<Item = &'static Color> {
    [INK, MUTED, LINE, REFERENCE, CANDIDATE, FLOOR].into_iter().chain(KINDS)
}

fn hex((r, g, b): (u8, u8, u8)) -> String {
    format!("#{r:02X}{g:02X}{b:02X}")
}

/// The style sheet's variables, in the light and in the dark, and the rules that give pictures their colors.
pub fn style() -> String {
    let variables =
        |of: fn(&Color) -> (u8, u8, u8)| -> String { all().map(|c| format!("--{}:{};", c.name, hex(of(c)))).collect() };
    let rules: String = all()
        .map(|c| {
            let (drawn, name) = (hex(c.light), c.name);
            format!("svg [fill=\"{drawn}\"]{{fill:var(--{name})}}svg [stroke=\"{drawn}\"]{{stroke:var(--{name})}}")
        })
        .collect();
    format!(
        ":root{{{}}}@media(prefers-color-scheme:dark){{:root{{{}}}}}{rules}",
        variables(|c| c.light),
        variables(|c| c.dark)
    )
}
