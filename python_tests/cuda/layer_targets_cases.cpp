// The layer targets' kernel against float64: formats, lengths, rows, strides, alignments, both forms.
// Arguments: the number of schedules; "few" for a selection of the cases.
#include <memory>
#include <vector>

#include "check.h"

using namespace d2v;

struct Shape {
  int64_t layers, batch, frames, channels;
};
enum Rows { ALL, SOME, RAGGED };  // RAGGED: the first sample has all rows, the last one none, which is past the room for sums
enum Layout { BATCH_FIRST, FRAMES_FIRST, MISALIGNED };

static void run(Shape shape, int64_t dtype, Rows which, Layout layout, bool with_lengths, int shared_limit) {
  const int64_t K = shape.layers, B = shape.batch, T = shape.frames, C = shape.channels;
  const int64_t sample_stride = layout == FRAMES_FIRST ? C : T * C, frame_stride = layout == FRAMES_FIRST ? B * C : C;
  std::vector<std::unique_ptr<Buffer>> layers;
  std::vector<const void*> pointers;
  std::vector<int64_t> strides, rows, lengths;
  for (int64_t k = 0; k < K; ++k) {
    layers.emplace_back(new Buffer(dtype, B * T * C, layout == MISALIGNED));
    const double centre = k % 2 ? 20 * normal() : 0;
    for (int64_t i = 0; i < B * T * C; ++i) layers.back()->set(i, centre + (k + 1) * normal());
    pointers.push_back(layers.back()->at(0));
    strides.insert(strides.end(), {sample_stride, frame_stride});
  }
  for (int64_t b = 0; b < B; ++b) lengths.push_back(1 + below(T + 2));  // also above T, which counts as T
  for (int64_t i = 0; i < B * T; ++i)
    if (which == SOME ? below(2) == 0 : which == RAGGED ? i / T == 0 || (i / T < B - 1 && below(8) == 0) : true) rows.push_back(i);
  const int64_t count = static_cast<int64_t>(rows.size());
  std::unique_ptr<int64_t[]> exact_rows(new int64_t[rows.size()]);
  for (size_t i = 0; i < rows.size(); ++i) exact_rows[i] = rows[i];
  Buffer out(F32, count * C);

  LayerTargets x = {};
  x.layers = pointers.data();
  x.strides = strides.data();
  x.rows = which == ALL ? nullptr : exact_rows.get();
  x.lengths = with_lengths ? lengths.data() : nullptr;
  x.out = out.at(0);
  x.layer_count = K;
  x.batch = B;
  x.frames = T;
  x.channels = C;
  x.count = count;
  x.dtype = dtype;
  x.layer_norm = NORM_INSTANCE;
  x.final_norm = NORM_NONE;
  x.eps = 1e-5;
  cuda_cpu::shared_limit = shared_limit;
  if (const char* error = cuda::layer_targets(x, nullptr)) {
    fprintf(stderr, "%s\n", error);
    exit(1);
  }

  std::vector<double> mean(static_cast<size_t>(K)), scale(static_cast<size_t>(K));
  for (int64_t b = 0; b < B; ++b) {
    const int64_t n = with_lengths && lengths[static_cast<size_t>(b)] < T ? lengths[static_cast<size_t>(b)] : T;
    for (int64_t c = 0; c < C; ++c) {
      const auto value = [&](int64_t k, int64_t t) { return layers[static_cast<size_t>(k)]->get(b * sample_stride + t * frame_stride + c); };
      for (int64_t k = 0; k < K; ++k) {
        double sum = 0, square = 0;
        for (int64_t t = 0; t < n; ++t) sum += value(k, t);
        for (int64_t t = 0; t < n; ++t) square += (value(k, t) - sum / n) * (value(k, t) - sum / n);
        mean[static_cast<size_t>(k)] = sum / n;
        scale[static_cast<size_t>(k)] = 1 / sqrt(square / n + 1e-5);
      }
      for (int64_t i = 0; i < count; ++i) {
        const int64_t t = rows[static_cast<size_t>(i)] - b * T;
        if (t < 0 || t >= T) continue;
        double expected = 0;
        for (int64_t k = 0; k < K && t < n; ++k) expected += (value(k, t) - mean[static_cast<size_t>(k)]) * scale[static_cast<size_t>(k)] / K;
        expect(fabs(out.get(i * C + c) - expected) <= 3e-6 * (1 + fabs(expected)), "target", out.get(i * C + c), expected, i * C + c);
      }
    }
  }
}

int main(int, char** arguments) {
  const int schedules = atoi(arguments[1]);
  const bool few = strcmp(arguments[2], "few") == 0;
  const int whole = 227 << 10, small = 6 << 10;  // 6 KB: 96 frames and the sums for 48 rows and nothing longer
  for (int schedule = 0; schedule < schedules; ++schedule) {
    cuda_cpu::seed = static_cast<uint64_t>(schedule);
    for (int64_t dtype : {F32, BF16, F16}) {
      run({2, 3, 150, 16}, dtype, SOME, BATCH_FIRST, true, whole);
      run({3, 2, 70, 8}, dtype, RAGGED, FRAMES_FIRST, false, whole);
      run({2, 3, 140, 16}, dtype, RAGGED, BATCH_FIRST, true, small);
      if (few || schedule > 1) continue;
      for (int64_t frames : {1, 2, 3, 31, 127, 128, 129, 385}) run({2, 1, frames, 8}, dtype, ALL, BATCH_FIRST, false, whole);
      for (int64_t channels : {1, 3, 7, 9, 15, 17, 24, 33}) {
        run({2, 2, 20, channels}, dtype, SOME, BATCH_FIRST, true, whole);
        run({2, 2, 20, channels}, dtype, RAGGED, MISALIGNED, true, schedule % 2 ? whole : small);
      }
      run({1, 2, 90, 16}, dtype, SOME, MISALIGNED, true, small);
      run({3, 4, 200, 24}, dtype, ALL, FRAMES_FIRST, true, small);
      run({1, 150, 3, 8}, dtype, SOME, BATCH_FIRST, false, whole);  // more rows than one round of the search probes
    }
  }
  return verdict();
}
