//! Numbers as people read them.

/// Three significant digits: `0.00475`, `18.4`, `2.31 × 10⁻⁷`.
pub fn significant(x: f64) -> String {
    if x == 0.0 || !x.is_finite() {
        return format!("{x}");
    }
    // The exponent after rounding: 0.9996 has that of 1.00.
    let written = format!("{x:.2e}");
    let (digits, exponent) = written.split_once('e').unwrap_or((&written, "0"));
    match exponent.parse() {
        Ok(exponent @ -5..=2) => format!("{x:.*}", (2 - exponent) as usize),
        Ok(3..=5) => thousands(x.round() as u64),
        _ => format!("{digits} × 10{}", superscript(exponent)),
    }
}

/// A round number: `0`, `0.001`, `20`, `10⁻⁶`, `2 × 10⁻⁶`.
pub fn round(x: f64) -> String {
    if x == 0.0 || (1e-3..1e5).contains(&x.abs()) {
        return format!("{}", (x * 1e9).round() / 1e9);
    }
    let written = format!("{x:.3e}");
    let (digits, exponent) = written.split_once('e').unwrap_or((&written, "0"));
    match digits.trim_end_matches('0').trim_end_matches('.') {
        "1" => format!("10{}", superscript(exponent)),
        digits => format!("{digits} × 10{}", superscript(exponent)),
    }
}

fn superscript(number: &str) -> String {
    let raised = |c: char| match c {
        '-' => '⁻',
        '1' => '¹',
        '2' => '²',
        '3' => '³',
        digit => char::from_u32(0x2070 + digit as u32 - '0' as u32).unwrap_or(digit),
    };
    number.chars().map(raised).collect()
}

/// A number and its standard error, to two digits of the error: `0.01202 ± 0.00037`.
pub fn with_error(x: f64, error: f64) -> String {
    if error <= 0.0 || !error.is_finite() {
        return significant(x);
    }
    let decimals = (1.0 - error.log10().floor()).clamp(0.0, 9.0) as usize;
    format!("{x:.decimals$} ± {error:.decimals$}")
}

/// A share as percentage: two decimals, and as many more as it takes to tell it from 100 %.
pub fn percent(share: f64) -> String {
    let missing = 1.0 - share;
    let decimals = match missing {
        m if m <= 0.0 => return "100 %".to_owned(),
        m if m < 5e-5 => (-m.log10()).ceil() as usize - 2 + 1,
        _ => 2,
    };
    format!("{:.*} %", decimals.min(9), 100.0 * share)
}

/// A ratio near 1.
pub fn ratio(x: f64) -> String {
    if x >= 100.0 { significant(x) } else { format!("{x:.4}") }
}

/// `1048576` as `1,048,576`.
pub fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `192.3` as `3 min 12 s`.
pub fn seconds(x: f64) -> String {
    match x {
        x if x < 10.0 => format!("{x:.1} s"),
        x if x < 120.0 => format!("{x:.0} s"),
        x => format!("{:.0} min {:.0} s", (x / 60.0).floor(), (x % 60.0).floor()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        let shown = [0.0, 0.0047512, 0.99961, 18.42, 123.4, 45678.0, 1.5e-7, 3e9].map(significant);
        assert_eq!(shown, ["0", "0.00475", "1.00", "18.4", "123", "45,678", "1.50 × 10⁻⁷", "3.00 × 10⁹"]);
        assert_eq!([0.0, 0.001, 20.0, 1e-6, 3.0 * 5e-5].map(round), ["0", "0.001", "20", "10⁻⁶", "1.5 × 10⁻⁴"]);
        assert_eq!(with_error(0.0120157, 0.000373), "0.01202 ± 0.00037");
        assert_eq!((with_error(1.5, 0.25), with_error(0.5, 0.0)), ("1.50 ± 0.25".to_owned(), "0.500".to_owned()));
        assert_eq!([0.9419, 1.0, 0.999969, 0.5].map(percent), ["94.19 %", "100 %", "99.9969 %", "50.00 %"]);
        assert_eq!([0, 999, 1000, 1048576].map(thousands), ["0", "999", "1,000", "1,048,576"]);
        assert_eq!([0.53, 42.4, 192.3].map(seconds), ["0.5 s", "42 s", "3 min 12 s"]);
    }
}
