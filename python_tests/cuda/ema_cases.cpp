// The EMA kernel against float64, every format and alignment and every residue of the vectors and chunks.
// Arguments: the number of schedules; "few" for a selection of the sizes.
#include <memory>
#include <vector>

#include "check.h"

using namespace d2v;

struct Case {
  Buffer teacher, student, shadow;
  std::vector<double> before;
  bool has_shadow;
  Case(int64_t size, int64_t teacher_dtype, int64_t student_dtype, int64_t shadow_dtype, int64_t offset)
      : teacher(teacher_dtype, size, offset), student(student_dtype, size, offset),
        shadow(shadow_dtype < 0 ? static_cast<int64_t>(F32) : shadow_dtype, shadow_dtype < 0 ? 0 : size, offset), has_shadow(shadow_dtype >= 0) {}
  EmaTensor tensor() const {
    return {teacher.at(0), student.at(0), has_shadow ? shadow.at(0) : nullptr, teacher.size, teacher.dtype, student.dtype, shadow.dtype};
  }
  void fill() {
    before.clear();
    for (int64_t i = 0; i < teacher.size; ++i) {
      teacher.set(i, normal());
      student.set(i, normal());
      before.push_back(teacher.get(i));
    }
  }
  void compare(double decay) const {
    const double unit = teacher.dtype == F64 ? 4e-16 : 6e-8;
    for (int64_t i = 0; i < teacher.size; ++i) {
      const double old = before[static_cast<size_t>(i)], now = teacher.get(i);
      const double to = teacher.dtype == F32 ? static_cast<double>(static_cast<float>(student.get(i))) : student.get(i);
      const double expected = decay == 0 ? to : old + (1 - decay) * (to - old);
      const double allowed = decay == 0 || decay == 1 ? 0 : unit * (fabs(old) + fabs(to) + fabs(to - old));
      expect(fabs(now - expected) <= allowed, "teacher", now, expected, i);
      if (!has_shadow) continue;
      Buffer rounded(shadow.dtype, 1);
      rounded.set(0, now);
      expect(shadow.get(i) == rounded.get(0), "shadow", shadow.get(i), rounded.get(0), i);
    }
  }
};

int main(int, char** arguments) {
  const int schedules = atoi(arguments[1]);
  const bool few = strcmp(arguments[2], "few") == 0;
  std::vector<int64_t> sizes = {0, 1, 2, 3, 4, 5, 6, 7, 1023, 2048, 2049, 16384, 16387, 33000};
  std::vector<std::unique_ptr<Case>> cases;
  if (few) {
    sizes = {1030};
    cases.emplace_back(new Case(16400, F32, F32, BF16, 0));  // two chunks
  }
  for (int64_t size : sizes) {
    for (int64_t student : {F32, BF16, F16})
      for (int64_t shadow : {-1, static_cast<int>(BF16), static_cast<int>(F16), static_cast<int>(F32)})
        for (int64_t offset : {0, 1})
          if (few ? offset == 0 || shadow == student : size < 10000 || (offset == 0 && shadow < F16)) cases.emplace_back(new Case(size, F32, student, shadow, offset));
    if (few) continue;
    cases.emplace_back(new Case(size, F32, F64, F64, 0));
    cases.emplace_back(new Case(size, F64, F64, BF16, 0));
    cases.emplace_back(new Case(size, F64, BF16, -1, 1));
  }
  std::vector<EmaTensor> tensors;
  for (const auto& one : cases) tensors.push_back(one->tensor());
  const int64_t count = static_cast<int64_t>(tensors.size()), chunks = cuda::ema_chunk_count(tensors.data(), count);
  std::vector<cuda::EmaChunk> table(static_cast<size_t>(chunks));
  cuda::ema_fill_chunks(tensors.data(), count, table.data());
  const double decays[] = {0.999, 0.3, 0.0, 1.0, 0.5};
  for (int schedule = 0; schedule < schedules; ++schedule) {
    cuda_cpu::seed = static_cast<uint64_t>(schedule);
    for (const auto& one : cases) one->fill();
    const double decay = decays[schedule % 5];
    if (const char* error = cuda::ema(table.data(), chunks, &decay, nullptr)) return fprintf(stderr, "%s\n", error), 1;
    for (const auto& one : cases) one->compare(decay);
  }
  return verdict();
}
