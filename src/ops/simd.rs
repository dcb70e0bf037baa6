//! Which vector instructions this machine has, and functions compiled once for each of them.
//!
//! [`multiversion!`](crate::ops::simd) compiles a plain body three times (AVX-512, AVX2, baseline) and picks one at
//! run time. No fused multiply-add is ever formed from plain code, so the three give the same bits.

use std::sync::OnceLock;

/// The vector instructions to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// What every machine has.
    Portable,
    /// AVX2 with fused multiply-add.
    Avx2,
    /// AVX-512 (F, VL, DQ, BW).
    Avx512,
}

/// The best level of this machine; `SWEEP_SIMD=portable|avx2|avx512` asks for a lower one (tests, comparisons).
pub fn level() -> Level {
    static LEVEL: OnceLock<Level> = OnceLock::new();
    *LEVEL.get_or_init(|| {
        let wanted = match std::env::var("SWEEP_SIMD").as_deref() {
            Ok("portable") => Level::Portable,
            Ok("avx2") => Level::Avx2,
            _ => Level::Avx512,
        };
        available().into_iter().filter(|&level| level <= wanted).max().unwrap_or(Level::Portable)
    })
}

/// All levels that this machine can run.
pub fn available() -> Vec<Level> {
    let mut levels = vec![Level::Portable];
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            levels.push(Level::Avx2);
            let wide = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vl");
            if wide && is_x86_feature_detected!("avx512dq") && is_x86_feature_detected!("avx512bw") {
                levels.push(Level::Avx512);
            }
        }
    }
    levels
}

/// Defines a function that is compiled for each [`Level`] and dispatched at run time.
macro_rules! multiversion {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $kind:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        #[allow(clippy::too_many_arguments, reason = "kernels take their sizes one by one")]
        $vis fn $name($($arg: $kind),*) $(-> $ret)? {
            #[allow(clippy::too_many_arguments, reason = "kernels take their sizes one by one")]
            #[inline(always)]
            fn body($($arg: $kind),*) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[allow(clippy::too_many_arguments, reason = "kernels take their sizes one by one")]
                #[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx2,fma")]
                fn avx512($($arg: $kind),*) $(-> $ret)? { body($($arg),*) }
                #[allow(clippy::too_many_arguments, reason = "kernels take their sizes one by one")]
                #[target_feature(enable = "avx2,fma")]
                fn avx2($($arg: $kind),*) $(-> $ret)? { body($($arg),*) }
                match $crate::ops::simd::level() {
                    // SAFETY: `level` only names instructions that this machine has.
                    #[allow(unsafe_code, reason = "detected at run time")]
                    $crate::ops::simd::Level::Avx512 => return unsafe { avx512($($arg),*) },
                    // SAFETY: as above.
                    #[allow(unsafe_code, reason = "detected at run time")]
                    $crate::ops::simd::Level::Avx2 => return unsafe { avx2($($arg),*) },
                    $crate::ops::simd::Level::Portable => {}
                }
            }
            body($($arg),*)
        }
    };
}
pub(crate) use multiversion;
