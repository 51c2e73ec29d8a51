// Kept tokens and noise to the places of a grid: each byte is read and written once.
#include <string.h>

#include "../kernels.h"

namespace d2v {
namespace D2V_ISA {

static const int64_t kPart = 1 << 16;  // bytes that one thread takes at a time, more or less

void restore(const Restore& x, int threads) {
  if (x.row_bytes == 0) return;
  const int64_t part = kPart / x.row_bytes > 0 ? kPart / x.row_bytes : 1, parts = (x.places + part - 1) / part;
  if (parts < 8) threads = 1;
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t i = 0; i < parts; ++i) {
    const int64_t first = i * part, last = first + part < x.places ? first + part : x.places;
    int64_t token = 0, end = x.count;  // the first one at or behind `first`, by bisection
    while (token < end) {
      const int64_t middle = (token + end) / 2;
      if (x.kept[middle] < first) token = middle + 1;
      else end = middle;
    }
    for (int64_t place = first; place < last;) {
      const int64_t next = token < x.count && x.kept[token] < last ? x.kept[token] : last;
      if (next > place) {  // a run of noise lies in one piece
        memcpy(x.out + place * x.row_bytes, x.noise + (place - token) * x.row_bytes, static_cast<size_t>((next - place) * x.row_bytes));
        place = next;
        continue;
      }
      memcpy(x.out + place * x.row_bytes, x.tokens + token * x.row_bytes, static_cast<size_t>(x.row_bytes));
      ++place;
      ++token;
    }
  }
}

}  // namespace D2V_ISA
}  // namespace d2v
