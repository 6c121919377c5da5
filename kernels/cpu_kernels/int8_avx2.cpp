// int8 products on an x86 processor that has AVX2 and no int8 units, exact in 32 bits.
//
//     out[m][n] = float(sum over k of x[m][k] * w[n][k]) * scale[n]        x (M, K), w (N, K)
//
// AVX2 multiplies bytes into sums of two in 16 bits, which overflow. Both sides are therefore widened
// to 16 bits, where sums of two are exact in 32: twice as many products an instruction as float32.
// A panel of COLUMNS outputs and DEPTH inputs is widened once for BAND rows of x and stays in the
// first cache; a tile of it, ROWS x COLUMNS sums, stays in the registers. N and K are multiples of 16.

#include <immintrin.h>
#include <omp.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <utility>

namespace {

constexpr int64_t ROWS = 6, COLUMNS = 16, DEPTH = 512, BAND = 384;

// Eight rows of eight pairs -> eight pairs of eight rows.
inline void turn(__m256i (&v)[8]) {
    __m256i a[8], b[8];
    for (int i = 0; i < 8; i += 2) {
        a[i] = _mm256_unpacklo_epi32(v[i], v[i + 1]);
        a[i + 1] = _mm256_unpackhi_epi32(v[i], v[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
        b[i] = _mm256_unpacklo_epi64(a[i], a[i + 2]);
        b[i + 1] = _mm256_unpackhi_epi64(a[i], a[i + 2]);
        b[i + 2] = _mm256_unpacklo_epi64(a[i + 1], a[i + 3]);
        b[i + 3] = _mm256_unpackhi_epi64(a[i + 1], a[i + 3]);
    }
    for (int i = 0; i < 4; ++i) {
        v[i] = _mm256_permute2x128_si256(b[i], b[i + 4], 0x20);
        v[i + 4] = _mm256_permute2x128_si256(b[i], b[i + 4], 0x31);
    }
}

// w (COLUMNS rows, `depth` inputs, `stride` apart) -> panel[input / 2][row][2].
inline void widen_weight(const int8_t* w, int64_t stride, int64_t depth, int16_t* panel) {
    for (int64_t k = 0; k < depth; k += 16)
        for (int64_t half = 0; half < COLUMNS; half += 8) {
            __m256i v[8];
            for (int i = 0; i < 8; ++i) {
                const auto* from = reinterpret_cast<const __m128i*>(w + (half + i) * stride + k);
                v[i] = _mm256_cvtepi8_epi16(_mm_loadu_si128(from));
            }
            turn(v);
            for (int i = 0; i < 8; ++i) {
                auto* to = reinterpret_cast<__m256i*>(panel + ((k / 2 + i) * COLUMNS + half) * 2);
                _mm256_store_si256(to, v[i]);
            }
        }
}

// x (rows, `depth` inputs, `stride` apart) -> wide[row][DEPTH].
inline void widen_rows(const int8_t* x, int64_t stride, int64_t rows, int64_t depth, int16_t* wide) {
    for (int64_t r = 0; r < rows; ++r)
        for (int64_t k = 0; k < depth; k += 16) {
            const auto* from = reinterpret_cast<const __m128i*>(x + r * stride + k);
            auto* to = reinterpret_cast<__m256i*>(wide + r * DEPTH + k);
            _mm256_storeu_si256(to, _mm256_cvtepi8_epi16(_mm_loadu_si128(from)));
        }
}

// Two inputs of one row times two inputs of COLUMNS outputs, added.
inline void add(const int16_t* pair, __m256i low, __m256i high, __m256i& left, __m256i& right) {
    int32_t both;
    std::memcpy(&both, pair, sizeof both);
    const __m256i x = _mm256_set1_epi32(both);
    left = _mm256_add_epi32(left, _mm256_madd_epi16(x, low));
    right = _mm256_add_epi32(right, _mm256_madd_epi16(x, high));
#if defined(__GNUC__)
    // or all rows are multiplied before the first is added, for which there are no registers
    __asm__ volatile("" : "+x"(left), "+x"(right));
#endif
}

inline __m256i read(const float* sums, bool first) {
    if (first) return _mm256_setzero_si256();
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(sums));
}

// Sums are kept as whole numbers in the result's own memory until the last inputs are in.
inline void write(__m256i sums, const float* scale, bool last, float* out) {
    if (last)
        _mm256_storeu_ps(out, _mm256_mul_ps(_mm256_cvtepi32_ps(sums), _mm256_loadu_ps(scale)));
    else
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), sums);
}

struct Part {
    const float* scale;  // of COLUMNS outputs
    int64_t pairs;       // inputs / 2
    int64_t stride;      // from one row of `out` to the next
    bool first, last;    // inputs of the layer
};

template <int... R>
inline void tile(
    std::integer_sequence<int, R...>, const int16_t* x, const int16_t* panel, Part part, float* out) {
    __m256i left[] = {read(out + R * part.stride, part.first)...};
    __m256i right[] = {read(out + R * part.stride + 8, part.first)...};
    for (int64_t p = 0; p < part.pairs; ++p) {
        const auto* w = reinterpret_cast<const __m256i*>(panel + p * 2 * COLUMNS);
        const __m256i low = _mm256_load_si256(w), high = _mm256_load_si256(w + 1);
        (add(x + R * DEPTH + 2 * p, low, high, left[R], right[R]), ...);
    }
    (write(left[R], part.scale, part.last, out + R * part.stride), ...);
    (write(right[R], part.scale + 8, part.last, out + R * part.stride + 8), ...);
}

template <int N>
using rows = std::make_integer_sequence<int, N>;

}  // namespace

extern "C" void int8_product(
    const int8_t* x, const int8_t* w, const float* scale, float* out, int64_t m, int64_t n, int64_t k) {
#pragma omp parallel
    {
        alignas(64) static thread_local int16_t panel[DEPTH * COLUMNS];
        alignas(64) static thread_local int16_t wide[BAND * DEPTH];
        const int64_t threads = omp_get_num_threads(), me = omp_get_thread_num();
        const int64_t begin = n / COLUMNS * me / threads, end = n / COLUMNS * (me + 1) / threads;
        for (int64_t top = 0; top < m; top += BAND)
            for (int64_t from = 0; from < k; from += DEPTH) {
                const int64_t count = std::min(BAND, m - top), depth = std::min(DEPTH, k - from);
                widen_rows(x + top * k + from, k, count, depth, wide);
                for (int64_t block = begin; block < end; ++block) {
                    const int64_t column = block * COLUMNS;
                    widen_weight(w + column * k + from, k, depth, panel);
                    const Part part{scale + column, depth / 2, n, from == 0, from + depth == k};
                    float* to = out + top * n + column;
                    int64_t r = 0;
                    for (; r + ROWS <= count; r += ROWS)
                        tile(rows<ROWS>(), wide + r * DEPTH, panel, part, to + r * n);
                    for (; r + 2 <= count; r += 2)
                        tile(rows<2>(), wide + r * DEPTH, panel, part, to + r * n);
                    for (; r < count; ++r)
                        tile(rows<1>(), wide + r * DEPTH, panel, part, to + r * n);
                }
            }
    }
}
