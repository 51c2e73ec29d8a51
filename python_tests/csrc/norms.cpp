// Norm and GELU with weight and bias, and the convolution of a signal before them, as in kernels.cpp.
#include "buffers.h"

namespace {

void test_norm_gelu_case(int64_t dtype, int64_t parameters, int64_t rows, int64_t channels) {
  const int64_t count = rows * channels;
  Buffer x = Buffer(dtype, count, 1).fill(1), weight = Buffer(parameters, channels, 1).fill(2), bias = Buffer(parameters, channels, 1).fill(3);
  Buffer y(dtype, count, 1), gradient = Buffer(dtype, count, 1).fill(4), of_x(dtype, count, 1);
  Buffer of_weight(parameters, channels, 1), of_bias(parameters, channels, 1);
  const d2v::NormGelu call = {x.data(), weight.data(), bias.data(), y.data(), gradient.data(), of_x.data(), of_weight.data(),
                              of_bias.data(), rows, channels, dtype, parameters, 1e-5};
  CHECK(kernels.norm_gelu(call, false, 2));
  CHECK(kernels.norm_gelu(call, true, 2));
  const double tolerance = 64 * unit(dtype);
  vector<double> weight_wanted(static_cast<size_t>(channels), 0.0), bias_wanted = weight_wanted;
  for (int64_t start = 0; start < count; start += channels) {
    const Norm norm = norm_and_gelu(x, start, channels);
    double shift = 0, tilt = 0;
    vector<double> slope;
    for (int64_t c = 0; c < channels; ++c) {
      const size_t at = static_cast<size_t>(c);
      const double u = norm.u[at] * weight.at(c) + bias.at(c), below = 0.5 * (1 + erf(u / sqrt(2.0)));
      CHECK(close(y.at(start + c), u * below, tolerance));
      const double outer = gradient.at(start + c) * (below + u * exp(-u * u / 2) / sqrt(2 * M_PI));
      weight_wanted[at] += outer * norm.u[at];
      bias_wanted[at] += outer;
      slope.push_back(outer * weight.at(c));
      shift += slope.back() / static_cast<double>(channels);
      tilt += slope.back() * norm.u[at] / static_cast<double>(channels);
    }
    for (int64_t c = 0; c < channels; ++c) {
      const size_t at = static_cast<size_t>(c);
      CHECK(close(of_x.at(start + c), (slope[at] - shift - norm.u[at] * tilt) * norm.scale, tolerance));
    }
  }
  const double summed = 64 * std::max(unit(dtype), unit(parameters));
  for (int64_t c = 0; c < channels; ++c) {
    const size_t at = static_cast<size_t>(c);
    CHECK(fabs(of_weight.at(c) - weight_wanted[at]) <= summed * std::max(1.0, fabs(weight_wanted[at])));
    CHECK(fabs(of_bias.at(c) - bias_wanted[at]) <= summed * std::max(1.0, fabs(bias_wanted[at])));
  }
}

void test_norm_gelu() {
  for (int64_t dtype : kFormats)
    for (int64_t parameters : {dtype, static_cast<int64_t>(d2v::F32)}) {
      test_norm_gelu_case(dtype, parameters, 3, 70);
      test_norm_gelu_case(dtype, parameters, 600, 5);  // three shares
      test_norm_gelu_case(dtype, parameters, 0, 5);
    }
}

void test_front_layer_case(int64_t real, int64_t dtype, int64_t samples, int64_t frames, int64_t width, int64_t step, int64_t channels) {
  const int64_t length = (frames - 1) * step + width + 1, rows = samples * frames, numbers = (width + 2) * channels;
  Buffer signal = Buffer(real, samples * length, 1).fill(1), weight = Buffer(real, width * channels, 3).fill(2);
  Buffer norm_weight = Buffer(real, channels, 1).fill(3), norm_bias = Buffer(real, channels, 1).fill(4), y(dtype, rows * channels, 1);
  Buffer gradient = Buffer(dtype, rows * channels, 1).fill(5), gradients(real, numbers, 1), z(d2v::F64, channels);
  const d2v::FrontLayer call = {signal.data(), weight.data(), norm_weight.data(), norm_bias.data(), y.data(), gradient.data(), gradients.data(),
                                samples, length, frames, step, width, channels, real, dtype, 1e-5};
  CHECK(kernels.front_layer(call, false, 2));
  CHECK(kernels.front_layer(call, true, 2));
  vector<double> wanted(static_cast<size_t>(numbers), 0.0), size = wanted;
  const auto add = [&](int64_t i, double value) {
    wanted[static_cast<size_t>(i)] += value;
    size[static_cast<size_t>(i)] += fabs(value);
  };
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t window = row / frames * length + row % frames * step, start = row * channels;
    for (int64_t c = 0; c < channels; ++c) {
      double sum = 0;
      for (int64_t k = 0; k < width; ++k) sum += signal.at(window + k) * weight.at(k * channels + c);
      z.set(c, sum);
    }
    const Norm norm = norm_and_gelu(z, 0, channels);
    double shift = 0, tilt = 0;
    vector<double> slope;
    for (int64_t c = 0; c < channels; ++c) {
      const size_t at = static_cast<size_t>(c);
      const double u = norm.u[at] * norm_weight.at(c) + norm_bias.at(c), below = 0.5 * (1 + erf(u / sqrt(2.0)));
      CHECK(close(y.at(start + c), u * below, 256 * std::max(unit(dtype), unit(real))));
      const double outer = gradient.at(start + c) * (below + u * exp(-u * u / 2) / sqrt(2 * M_PI));
      add(width * channels + c, outer * norm.u[at]);
      add((width + 1) * channels + c, outer);
      slope.push_back(outer * norm_weight.at(c));
      shift += slope.back() / static_cast<double>(channels);
      tilt += slope.back() * norm.u[at] / static_cast<double>(channels);
    }
    for (int64_t c = 0; c < channels; ++c) {
      const size_t at = static_cast<size_t>(c);
      const double of_z = (slope[at] - shift - norm.u[at] * tilt) * norm.scale;
      for (int64_t k = 0; k < width; ++k) add(k * channels + c, signal.at(window + k) * of_z);
    }
  }
  for (int64_t i = 0; i < numbers; ++i) {
    const size_t at = static_cast<size_t>(i);
    CHECK(fabs(gradients.at(i) - wanted[at]) <= 256 * unit(real) * std::max(1.0, size[at]));
  }
}
void test_front_layer() {
  for (int64_t real : {static_cast<int64_t>(d2v::F32), static_cast<int64_t>(d2v::F64)})
    for (int64_t dtype : {real, static_cast<int64_t>(d2v::BF16)}) {
      test_front_layer_case(real, dtype, 2, 9, 10, 5, 70);      // side by side in eights, and one that is left
      test_front_layer_case(real, dtype, 1, 520, 3, 1, 5);      // several shares, the last one short
      test_front_layer_case(real, dtype, 2, 8300, 2, 4, 3);     // shares of more than one part, and windows that leave numbers out
      test_front_layer_case(real, dtype, 0, 4, 3, 1, 5);
    }
}

}  // namespace

void test_norms() {
  test_norm_gelu();
  test_front_layer();
}
