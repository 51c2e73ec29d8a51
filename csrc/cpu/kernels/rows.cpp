// Whether flat row indices are what the kernels rely on.
#include "../kernels.h"

namespace d2v {
namespace D2V_ISA {

int64_t first_bad_row(const int64_t* rows, int64_t count, int64_t limit) {
  if (count == 0) return -1;
  // Ascending and with both ends in range: then all of them are.
  int64_t bad = rows[0] < 0 || rows[count - 1] >= limit;
#pragma omp simd reduction(| : bad)
  for (int64_t i = 1; i < count; ++i) bad |= rows[i] <= rows[i - 1];
  if (!bad) return -1;
  for (int64_t i = 0; i < count; ++i)
    if (rows[i] < 0 || rows[i] >= limit || (i > 0 && rows[i] <= rows[i - 1])) return i;
  return -1;
}

}  // namespace D2V_ISA
}  // namespace d2v
