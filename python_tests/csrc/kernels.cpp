// The kernels of one instruction set under AddressSanitizer and UndefinedBehaviorSanitizer: many sizes, every format, odd addresses,
// in buffers of exactly the promised size, with results checked against plain arithmetic in double.
#include "buffers.h"

void test_norms();
void test_views();

void test_formats() {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const isa::bf16 brain{static_cast<uint16_t>(bits)};
    const isa::f16 half{static_cast<uint16_t>(bits)};
    isa::bf16 brain_again;
    isa::f16 half_again;
    isa::from_float(isa::to_float(brain), &brain_again);
    isa::from_float(isa::to_float(half), &half_again);
    CHECK(brain_again.bits == bits || isnan(isa::to_float(brain)));
    CHECK(half_again.bits == bits || isnan(isa::to_float(half)));
    CHECK(isnan(isa::to_float(brain_again)) == isnan(isa::to_float(brain)));
    CHECK(isnan(isa::to_float(half_again)) == isnan(isa::to_float(half)));
    const int exponent = static_cast<int>(bits >> 10 & 31), mantissa = static_cast<int>(bits & 1023);
    if (exponent < 31) {
      const double value = exponent == 0 ? ldexp(mantissa, -24) : ldexp(1024 + mantissa, exponent - 25);
      CHECK(fabs(static_cast<double>(isa::to_float(half))) == value);
    }
  }
  // Rounding to the nearest, ties to even: between neighbours, at the middle and a little beside it. In blocks, as kernels do it.
  for (uint32_t bits = 0; bits < 0x7bff; bits += 5) {
    const isa::f16 low{static_cast<uint16_t>(bits)}, high{static_cast<uint16_t>(bits + 1)};
    const float a = isa::to_float(low), b = isa::to_float(high), middle = (a + b) / 2;
    float inputs[9] = {a, nextafterf(middle, a), middle, nextafterf(middle, b), b, -a, -middle, INFINITY, 1e6f};
    isa::f16 block[9], one;
    isa::encode(inputs, block, 9);
    const uint32_t even = bits % 2 == 0 ? bits : bits + 1;
    const uint32_t expected[9] = {bits, bits, even, bits + 1, bits + 1, bits | 0x8000, even | 0x8000, 0x7c00, 0x7c00};
    for (int i = 0; i < 9; ++i) {
      isa::from_float(inputs[i], &one);
      CHECK(block[i].bits == expected[i] && one.bits == expected[i]);
    }
  }
  for (uint32_t bits = 0; bits < 0x7f7f; bits += 3) {
    const float a = isa::bits_float(bits << 16), middle = isa::bits_float((bits << 16) + 0x8000);
    isa::bf16 out[4];
    const float inputs[4] = {a, isa::bits_float((bits << 16) + 0x7fff), middle, isa::bits_float((bits << 16) + 0x8001)};
    isa::encode(inputs, out, 4);
    CHECK(out[0].bits == bits && out[1].bits == bits && out[2].bits == bits + bits % 2 && out[3].bits == bits + 1);
  }
}

void test_ema() {
  for (int64_t teacher_dtype : {d2v::F32, d2v::F64})
    for (int64_t student_dtype : kFormats)
      for (int64_t shadow_dtype : {int64_t{-1}, int64_t{d2v::F32}, int64_t{d2v::F64}, int64_t{d2v::BF16}, int64_t{d2v::F16}})
        for (double decay : {0.0, 0.25, 0.875, 1.0}) {
          vector<Buffer> teacher, student, shadow, before;
          vector<d2v::EmaTensor> table;
          int seed = 0;
          const vector<int64_t> sizes{0, 1, 7, 0, 1023, 1024, 1025, 65603};  // a chunk has 65,600
          for (int64_t size : sizes) {
            ++seed;
            teacher.push_back(Buffer(teacher_dtype, size, seed % 3).fill(seed));
            before.push_back(teacher.back());
            student.push_back(Buffer(student_dtype, size, seed % 2).fill(-seed));
            shadow.emplace_back(shadow_dtype < 0 ? int64_t{d2v::F32} : shadow_dtype, size, seed % 5);
          }
          for (size_t i = 0; i < sizes.size(); ++i)
            table.push_back({teacher[i].data(), student[i].data(), shadow_dtype < 0 ? nullptr : shadow[i].data(), sizes[i], teacher_dtype,
                             student_dtype, shadow_dtype < 0 ? 0 : shadow_dtype});
          kernels.ema(table.data(), static_cast<int64_t>(table.size()), decay, 2);
          for (size_t i = 0; i < sizes.size(); ++i)
            for (int64_t j = 0; j < sizes[i]; j += sizes[i] > 2000 ? 97 : 1) {
              // The values and the weights are short: every result is exact.
              CHECK(teacher[i].at(j) == before[i].at(j) + (1 - decay) * (student[i].at(j) - before[i].at(j)));
              if (shadow_dtype >= 0) CHECK(close(shadow[i].at(j), teacher[i].at(j), unit(shadow_dtype) / 2));
            }
        }
  kernels.ema(nullptr, 0, 0.5, 2);
}

void test_adamw() {
  for (int64_t dtype : {d2v::F32, d2v::F64})
    for (int64_t shadow_dtype : {int64_t{-1}, int64_t{d2v::F32}, int64_t{d2v::F64}, int64_t{d2v::BF16}, int64_t{d2v::F16}})
      for (double decay : {0.0, 0.25, 0.875, 1.0})
        for (double beta1 : {0.25, 0.875}) {
          const vector<int64_t> sizes{0, 1, 511, 512, 513, 65537};  // a block has 512, a chunk 65,536
          vector<Buffer> lists[5], before[5], shadows[2];           // parameters, gradients, moments, teachers
          vector<float> steps;
          vector<d2v::AdamwTensor> table;
          vector<d2v::AdamwRate> rates;
          int seed = 0;
          for (int64_t size : sizes) {
            ++seed;
            for (int list = 0; list < 5; ++list) {
              lists[list].push_back(Buffer(dtype, size, (seed + list) % 3).fill(seed + 10 * list));
              if (list == 3)
                for (int64_t i = 0; i < size; ++i) lists[list].back().set(i, fabs(lists[list].back().at(i)));
              before[list].push_back(lists[list].back());
            }
            for (auto& list : shadows) list.emplace_back(shadow_dtype < 0 ? int64_t{d2v::F32} : shadow_dtype, size, seed % 5);
            steps.push_back(static_cast<float>(seed));
            rates.push_back({0.01 * seed, 0.5});
          }
          for (size_t i = 0; i < sizes.size(); ++i) {
            const bool copied = shadow_dtype >= 0, followed = i != 2;
            table.push_back({lists[0][i].data(), lists[1][i].data(), lists[2][i].data(), lists[3][i].data(), &steps[i],
                             followed ? lists[4][i].data() : nullptr, copied ? shadows[0][i].data() : nullptr,
                             copied && followed ? shadows[1][i].data() : nullptr, sizes[i], dtype, copied ? shadow_dtype : 0,
                             copied ? shadow_dtype : 0});
          }
          kernels.adamw_ema(table.data(), rates.data(), static_cast<int64_t>(table.size()), {beta1, 0.75, 1e-6, 2.0, decay}, 2);
          for (size_t i = 0; i < sizes.size(); ++i) {
            const double done = static_cast<double>(i) + 2, lr = rates[i].lr, tolerance = 32 * unit(dtype);
            CHECK(static_cast<double>(steps[i]) == done);
            for (int64_t j = 0; j < sizes[i]; j += sizes[i] > 2000 ? 97 : 1) {
              const double g = before[1][i].at(j) / 2, m = beta1 * before[2][i].at(j) + (1 - beta1) * g;
              const double v = 0.75 * before[3][i].at(j) + 0.25 * g * g;
              const double root = sqrt(v / (1 - pow(0.75, done))) + 1e-6;
              const double p = before[0][i].at(j) * (1 - lr * 0.5) - lr / (1 - pow(beta1, done)) * m / root;
              const double t = i == 2 ? before[4][i].at(j) : decay * before[4][i].at(j) + (1 - decay) * p;
              const double exact[5] = {p, before[1][i].at(j), m, v, t};
              for (int list = 0; list < 5; ++list) CHECK(close(lists[list][i].at(j), exact[list], tolerance));
              if (shadow_dtype < 0) continue;
              CHECK(close(shadows[0][i].at(j), lists[0][i].at(j), unit(shadow_dtype) / 2));
              CHECK(i == 2 || close(shadows[1][i].at(j), lists[4][i].at(j), unit(shadow_dtype) / 2));
            }
          }
        }
  kernels.adamw_ema(nullptr, nullptr, 0, {0.9, 0.98, 1e-6, 1.0, 0.5}, 2);
}

void test_smooth_l1_case(int64_t pred_dtype, int64_t target_dtype, int64_t positions, int64_t channels, int64_t share, double beta,
                         int64_t reduction) {
  vector<int64_t> rows;
  for (int64_t i = 0; i < positions; ++i)
    if (share == 100 || (i * 37) % 100 < share) rows.push_back(i);
  const int64_t count = static_cast<int64_t>(rows.size());
  const bool wide = pred_dtype == d2v::F64 || target_dtype == d2v::F64;
  const int64_t loss_dtype = wide ? d2v::F64 : d2v::F32;
  Buffer pred = Buffer(pred_dtype, positions * channels, 1).fill(1), target = Buffer(target_dtype, count * channels, 1).fill(2);
  Buffer gradient(pred_dtype, positions * channels, 1), out(pred_dtype, positions * channels, 3);
  Buffer loss(loss_dtype, reduction == d2v::REDUCE_NONE ? count : 1);
  Buffer incoming = Buffer(loss_dtype, reduction == d2v::REDUCE_NONE ? count : 1).fill(3);
  vector<double> losses(static_cast<size_t>(count));
  const int64_t* named = rows.empty() ? nullptr : rows.data();
  const d2v::SmoothL1 x = {pred.data(), target.data(), named, gradient.data(), loss.data(), count, positions, channels,
                           pred_dtype, target_dtype, reduction, beta, 0.5, 2.0};
  kernels.smooth_l1_forward(x, losses.data(), 2);
  const d2v::SmoothL1Gradient y = {gradient.data(), incoming.data(), named, out.data(), count, positions, channels,
                                   pred_dtype, loss_dtype, reduction == d2v::REDUCE_NONE, 0.25};
  kernels.smooth_l1_backward(y, 2);

  double total = 0;
  vector<char> is_row(static_cast<size_t>(positions), 0);
  for (int64_t row = 0; row < count; ++row) {
    is_row[static_cast<size_t>(rows[static_cast<size_t>(row)])] = 1;
    double sum = 0;
    for (int64_t c = 0; c < channels; ++c) {
      const int64_t at = rows[static_cast<size_t>(row)] * channels + c;
      const double d = pred.at(at) - target.at(row * channels + c);
      sum += beta == 0 ? d * d : fabs(d) < beta ? 0.5 * d * d / beta : fabs(d) - 0.5 * beta;
      const double slope = beta == 0 ? d : std::max(-1.0, std::min(1.0, d / beta));
      const double factor = incoming.at(reduction == d2v::REDUCE_NONE ? row : 0) * 0.25;
      CHECK(close(gradient.at(at), 2 * slope, 2 * unit(pred_dtype)));
      CHECK(close(out.at(at), 2 * slope * factor, 4 * unit(pred_dtype)));
    }
    if (reduction == d2v::REDUCE_NONE) CHECK(close(loss.at(row), sum / 2, 1e-5));
    total += sum / 2;
  }
  if (reduction == d2v::REDUCE_SUM) CHECK(close(loss.at(0), total, 1e-5));
  if (reduction == d2v::REDUCE_MEAN) CHECK(close(loss.at(0), count ? total / static_cast<double>(count) : 0.0, 1e-5));
  for (int64_t i = 0; i < positions * channels; ++i)
    if (!is_row[static_cast<size_t>(i / channels)]) CHECK(gradient.at(i) == 0 && out.at(i) == 0);

  // Without a gradient, the same loss.
  Buffer silent(loss_dtype, loss.size);
  d2v::SmoothL1 z = x;
  z.gradient = nullptr;
  z.loss = silent.data();
  kernels.smooth_l1_forward(z, losses.data(), 1);
  for (int64_t i = 0; i < loss.size; ++i) CHECK(silent.at(i) == loss.at(i));
}

void test_smooth_l1() {
  for (int64_t pred_dtype : kFormats)
    for (int64_t target_dtype : kFormats)
      for (int64_t channels : {0, 1, 127, 128, 129, 300})
        for (int64_t positions : {0, 1, 13})
          for (int64_t share : {0, 40, 100})
            for (int64_t reduction : {d2v::REDUCE_NONE, d2v::REDUCE_SUM, d2v::REDUCE_MEAN})
              test_smooth_l1_case(pred_dtype, target_dtype, positions, channels, share, channels % 2 ? 0.0 : 0.75, reduction);
  for (int64_t dtype : kFormats)
    for (int64_t channels : {701, 1024, 1025, 2100})  // large enough for two threads; one block of a row, and more
      test_smooth_l1_case(dtype, d2v::F32, 211, channels, 40, 0.75, d2v::REDUCE_MEAN);
}

void test_layer_targets() {
  for (int64_t dtype : kFormats)
    for (int64_t layer_norm : {d2v::NORM_NONE, d2v::NORM_INSTANCE, d2v::NORM_LAYER, d2v::NORM_BATCH})
      for (int64_t final_norm : {d2v::NORM_NONE, d2v::NORM_LAYER})
        for (int64_t channels : {1, 7, 64, 130})
          for (int64_t frames : {1, 5, 33})
            for (int variant = 0; variant < 4; ++variant) {  // with rows, with lengths
              const int64_t batch = 3, layer_count = channels == 7 ? 6 : 2;
              vector<Buffer> layers;
              vector<const void*> addresses;
              vector<int64_t> strides, rows, lengths{frames, frames / 2 + 1, 1};
              for (int64_t k = 0; k < layer_count; ++k) layers.push_back(Buffer(dtype, batch * frames * channels, k + 1).fill(static_cast<int>(k)));
              for (Buffer& layer : layers) {
                addresses.push_back(layer.data());
                strides.push_back(frames * channels);
                strides.push_back(channels);
              }
              for (int64_t i = 0; i < batch * frames; i += 2) rows.push_back(i);
              const int64_t count = variant & 1 ? static_cast<int64_t>(rows.size()) : batch * frames;
              Buffer out(dtype == d2v::F64 ? d2v::F64 : d2v::F32, count * channels, 1), serial = out;
              d2v::LayerTargets x = {addresses.data(), strides.data(), variant & 1 ? rows.data() : nullptr,
                                     variant & 2 ? lengths.data() : nullptr, out.data(), layer_count, batch, frames, channels, count,
                                     dtype, layer_norm, final_norm, 1, 1e-5};
              CHECK(kernels.layer_targets(x, 2));
              x.out = serial.data();
              CHECK(kernels.layer_targets(x, 1));
              for (int64_t i = 0; i < count * channels; ++i) CHECK(isfinite(out.at(i)) && out.at(i) == serial.at(i));
              for (int64_t i = 0; i < count; ++i) {
                const int64_t position = variant & 1 ? rows[static_cast<size_t>(i)] : i;
                const bool padded = (variant & 2) && position % frames >= lengths[static_cast<size_t>(position / frames)];
                for (int64_t c = 0; c < channels; ++c) {
                  const double ours = out.at(i * channels + c);
                  if (padded) CHECK(ours == 0);
                  else if (layer_norm == d2v::NORM_NONE && final_norm == d2v::NORM_NONE && layer_count == 2)
                    CHECK(close(ours, (layers[0].at(position * channels + c) + layers[1].at(position * channels + c)) / 2, 1e-6));
                }
              }
            }
  // Large enough for two threads: a sample for each, and the statistics first where there is one sample only.
  for (int64_t frames : {701, 9001}) {
    const int64_t batch = frames == 701 ? 2 : 1, channels = frames == 701 ? 259 : 17, size = batch * frames * channels;
    Buffer layer = Buffer(d2v::F32, size, 1).fill(3), out(d2v::F32, size, 1);
    const void* address = layer.data();
    const int64_t strides[2] = {frames * channels, channels};
    CHECK(kernels.layer_targets({&address, strides, nullptr, nullptr, out.data(), 1, batch, frames, channels, batch * frames, d2v::F32,
                                 d2v::NORM_INSTANCE, d2v::NORM_NONE, 1, 1e-5}, 2));
    for (int64_t c = 0; c < channels; ++c) {
      double mean = 0, square = 0;
      for (int64_t t = 0; t < frames; ++t) {
        mean += out.at(t * channels + c) / static_cast<double>(frames);
        square += out.at(t * channels + c) * out.at(t * channels + c) / static_cast<double>(frames);
      }
      CHECK(fabs(mean) < 1e-5 && fabs(square - 1) < 1e-3);
    }
  }
}

// A row of view v has the target of its sample's position.
void test_targets_of_views() {
  const int64_t batch = 2, frames = 9, channels = 20, views = 3;
  for (int64_t dtype : kFormats)
    for (int64_t layer_norm : {d2v::NORM_NONE, d2v::NORM_INSTANCE, d2v::NORM_LAYER, d2v::NORM_BATCH}) {
      Buffer layer = Buffer(dtype, batch * frames * channels, 1).fill(3);
      const void* address = layer.data();
      const int64_t strides[2] = {frames * channels, channels};
      vector<int64_t> rows;
      for (int64_t i = 0; i < batch * views * frames; i += i % 5 + 1) rows.push_back(i);
      rows.push_back(batch * views * frames - 1);
      rows.erase(std::unique(rows.begin(), rows.end()), rows.end());
      const int64_t count = static_cast<int64_t>(rows.size()), result = dtype == d2v::F64 ? d2v::F64 : d2v::F32;
      Buffer out(result, count * channels, 1), whole(result, batch * frames * channels);
      d2v::LayerTargets x = {&address, strides, rows.data(), nullptr, out.data(), 1, batch, frames, channels, count,
                             dtype, layer_norm, d2v::NORM_NONE, views, 1e-5};
      CHECK(kernels.layer_targets(x, 2));
      x.rows = nullptr;
      x.out = whole.data();
      x.count = batch * frames;
      x.views = 1;
      CHECK(kernels.layer_targets(x, 1));
      for (int64_t i = 0; i < count; ++i) {
        const int64_t row = rows[static_cast<size_t>(i)], own = row / (views * frames) * frames + row % frames;
        for (int64_t c = 0; c < channels; ++c) CHECK(out.at(i * channels + c) == whole.at(own * channels + c));
      }
    }
}

void test_rows_and_copy() {
  const vector<int64_t> good{0, 3, 4, 9};
  CHECK(kernels.first_bad_row(good.data(), 4, 10) == -1);
  CHECK(kernels.first_bad_row(nullptr, 0, 0) == -1);
  CHECK(kernels.first_bad_row(good.data(), 4, 9) == 3);
  for (vector<int64_t> bad : {vector<int64_t>{0, 3, 3, 9}, {0, 5, 4, 9}, {0, 3, -1, 9}, {0, 3, 11, 9}})
    CHECK(kernels.first_bad_row(bad.data(), 4, 10) == 2);
  CHECK(kernels.first_bad_row(vector<int64_t>{-1}.data(), 1, 10) == 0);
  for (int64_t size : {0, 1, 63, 64, 65, 1000, (1 << 18) + 77})
    for (int64_t offset : {0, 1, 31}) {
      vector<char> source(static_cast<size_t>(size + offset)), target(source.size(), 0);
      for (size_t i = 0; i < source.size(); ++i) source[i] = static_cast<char>(i * 31 + 1);
      kernels.streaming_copy(target.data() + offset, source.data() + offset, size, 2);
      CHECK(std::equal(source.begin() + offset, source.end(), target.begin() + offset));
    }
}

int main() {
  test_formats();
  test_ema();
  test_adamw();
  test_smooth_l1();
  test_layer_targets();
  test_targets_of_views();
  test_rows_and_copy();
  test_norms();
  test_views();
  puts("ok");
}
