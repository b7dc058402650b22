#include "isa.h"

#if defined(EDGESEG_X86)
#include <cpuid.h>
#endif

namespace edgeseg {
namespace {

const Operations* const kAll[] = {
    &kGeneric,
#if defined(EDGESEG_X86)
    &kSse41,      &kAvx2,
#if defined(EDGESEG_HAVE_AVXVNNI)
    &kAvxVnni,
#endif
    &kAvx512Vnni,
#endif
};
constexpr int kCount = sizeof(kAll) / sizeof(kAll[0]);

#if defined(EDGESEG_X86)

struct Features {
    bool sse41 = false;
    bool avx2 = false;
    bool avxvnni = false;
    bool avx512vnni = false;
};

// Read from cpuid rather than __builtin_cpu_supports: that one does not know AVX-VNNI in every
// compiler that can produce it.
Features detect() {
    Features features;
    unsigned a = 0, b = 0, c = 0, d = 0;
    if (!__get_cpuid(1, &a, &b, &c, &d)) return features;
    features.sse41 = (c >> 9 & 1) && (c >> 19 & 1);  // with SSSE3
    const bool fma = c >> 12 & 1, f16c = c >> 29 & 1;
    const bool osxsave = c >> 27 & 1;
    if (!osxsave) return features;
    unsigned state = 0, state_high = 0;
    __asm__("xgetbv" : "=a"(state), "=d"(state_high) : "c"(0));
    const bool ymm_saved = (state & 0x6) == 0x6;
    const bool zmm_saved = (state & 0xe6) == 0xe6;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return features;
    const unsigned last_subleaf = a;
    const bool f = b >> 16 & 1, dq = b >> 17 & 1, bw = b >> 30 & 1, vl = b >> 31 & 1;
    features.avx2 = ymm_saved && fma && f16c && (b >> 5 & 1);
    features.avx512vnni = features.avx2 && zmm_saved && f && dq && bw && vl && (c >> 11 & 1);
    if (last_subleaf >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d)) {
        features.avxvnni = features.avx2 && (a >> 4 & 1);
    }
    return features;
}

#endif

}  // namespace

const Operations* operations(int index) {
    return index >= 0 && index < kCount ? kAll[index] : nullptr;
}

bool supported(int index) {
    const Operations* wanted = operations(index);
    if (wanted == nullptr) return false;
#if defined(EDGESEG_X86)
    static const Features features = detect();
    if (wanted == &kSse41) return features.sse41;
    if (wanted == &kAvx2) return features.avx2;
#if defined(EDGESEG_HAVE_AVXVNNI)
    if (wanted == &kAvxVnni) return features.avxvnni;
#endif
    if (wanted == &kAvx512Vnni) return features.avx512vnni;
#endif
    return true;
}

FloatIsa float_isa(int index) {
#if defined(EDGESEG_X86)
    const Operations* chosen = operations(index);
    if (chosen == &kAvx512Vnni) return FloatIsa::kAvx512;
    if (chosen != &kGeneric && chosen != &kSse41) return FloatIsa::kAvx2;
#else
    static_cast<void>(index);
#endif
    return FloatIsa::kGeneric;
}

int fastest() {
    int index = kCount - 1;
    while (!supported(index)) --index;
    return index;
}

}  // namespace edgeseg
