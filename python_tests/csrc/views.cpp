// The kernels of data2vec 2.0, as in kernels.cpp: restored grids, decoder layers, attention.
#include "buffers.h"

namespace {

void test_restore() {
  for (int64_t bytes : {2, 6, 64, 1000})
    for (int64_t places : {1, 7, 40, 3000})
      for (int64_t step : {1, 3, 4000}) {  // all are kept, a third, the first one only
        vector<int64_t> kept;
        for (int64_t i = places == 7 ? 2 : 0; i < places; i += step) kept.push_back(i);
        const int64_t count = static_cast<int64_t>(kept.size());
        vector<char> tokens(static_cast<size_t>(count * bytes)), noise(static_cast<size_t>((places - count) * bytes));
        vector<char> out(static_cast<size_t>(places * bytes), 0), wanted;
        for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = static_cast<char>(i * 31 + 1);
        for (size_t i = 0; i < noise.size(); ++i) noise[i] = static_cast<char>(i * 17 + 5);
        auto token = tokens.begin(), other = noise.begin();
        for (int64_t i = 0; i < places; ++i) {
          auto& from = std::binary_search(kept.begin(), kept.end(), i) ? token : other;
          wanted.insert(wanted.end(), from, from + bytes);
          from += bytes;
        }
        kernels.restore({tokens.data(), noise.data(), kept.data(), out.data(), count, places, bytes}, 2);
        CHECK(out == wanted);
      }
  kernels.restore({nullptr, nullptr, nullptr, nullptr, 0, 0, 8}, 2);
}

// One place of a convolution: calls use(input, weight) for each product that the result `c` at (row, column) of `sample` is made of.
template <typename Use>
void for_products(const d2v::DecoderLayer& x, int64_t sample, int64_t row, int64_t column, int64_t c, Use use) {
  const int64_t in = x.channels / x.groups, group = c / (x.out_channels / x.groups);
  for (int64_t i = 0; i < x.kernel_height; ++i)
    for (int64_t j = 0; j < x.kernel_width; ++j) {
      const int64_t y = row + i - x.kernel_height / 2, z = column + j - x.kernel_width / 2;
      if (y < 0 || y >= x.height || z < 0 || z >= x.width) continue;
      for (int64_t k = 0; k < in; ++k)
        use(((sample * x.height + y) * x.width + z) * x.channels + group * in + k,
            ((c * in + k) * x.kernel_height + i) * x.kernel_width + j);
    }
}

void test_decoder_layer_case(int64_t dtype, bool grid, int64_t channels, int64_t out_channels, int64_t groups, int64_t kernel, bool given) {
  const int64_t samples = 2, height = grid ? 4 : 9, width = grid ? 3 : 1, places = samples * height * width;
  const int64_t taps = kernel * (grid ? kernel : 1), weights = out_channels * channels / groups * taps;
  Buffer x = Buffer(dtype, places * channels, 1).fill(1), weight = Buffer(dtype, weights, 3).fill(2), bias = Buffer(dtype, out_channels, 1).fill(3);
  Buffer z(dtype, places * out_channels, 1), y(dtype, places * out_channels, 1), gradient = Buffer(dtype, places * out_channels, 1).fill(4);
  Buffer of_z(dtype, places * out_channels, 1), of_bias(dtype, out_channels, 1), of_x(dtype, places * channels, 1), of_weight(dtype, weights, 1);
  if (given) z.fill(5);
  const d2v::DecoderLayer layer = {x.data(), given ? nullptr : weight.data(), bias.data(), z.data(), y.data(), gradient.data(), of_z.data(),
                                   of_bias.data(), of_x.data(), of_weight.data(), samples, height, width, channels, out_channels, groups,
                                   kernel, grid ? kernel : 1, 1, dtype, 1e-5};
  const double tolerance = 64 * unit(dtype);
  CHECK(kernels.decoder_layer_forward(layer, 2));
  CHECK(kernels.decoder_layer_backward(layer, 2));
  vector<double> x_wanted(static_cast<size_t>(places * channels), 0.0), weight_wanted(static_cast<size_t>(weights), 0.0);
  vector<double> bias_wanted(static_cast<size_t>(out_channels), 0.0);
  for (int64_t place = 0; place < places; ++place) {
    const int64_t sample = place / (height * width), row = place / width % height, column = place % width, start = place * out_channels;
    const Norm norm = norm_and_gelu(z, start, out_channels);
    double shift = 0, tilt = 0;
    vector<double> slope;
    for (int64_t c = 0; c < out_channels; ++c) {
      const double u = norm.u[static_cast<size_t>(c)];
      slope.push_back(gradient.at(start + c) * (0.5 * (1 + erf(u / sqrt(2.0))) + u * exp(-u * u / 2) / sqrt(2 * M_PI)));
      shift += slope.back() / static_cast<double>(out_channels);
      tilt += slope.back() * u / static_cast<double>(out_channels);
    }
    for (int64_t c = 0; c < out_channels; ++c) {
      const size_t at = static_cast<size_t>(c);
      double sum = bias.at(c);
      if (!given) for_products(layer, sample, row, column, c, [&](int64_t i, int64_t w) { sum += x.at(i) * weight.at(w); });
      if (!given) CHECK(close(z.at(start + c), sum, tolerance));
      const double added = channels == out_channels ? x.at(place * channels + c) : 0.0;
      CHECK(close(y.at(start + c), norm.result[at] + added, tolerance));
      CHECK(close(of_z.at(start + c), (slope[at] - shift - norm.u[at] * tilt) * norm.scale, tolerance));
      const double own = of_z.at(start + c);  // as it was rounded
      bias_wanted[at] += own;
      if (given) continue;
      for_products(layer, sample, row, column, c, [&](int64_t i, int64_t w) {
        x_wanted[static_cast<size_t>(i)] += own * weight.at(w);
        weight_wanted[static_cast<size_t>(w)] += own * x.at(i);
      });
      if (channels == out_channels) x_wanted[static_cast<size_t>(place * channels + c)] += gradient.at(start + c);
    }
  }
  const auto check = [&](Buffer& ours, const vector<double>& wanted) {
    double largest = 1;
    for (double value : wanted) largest = std::max(largest, fabs(value));
    for (int64_t i = 0; i < ours.size; ++i) CHECK(fabs(ours.at(i) - wanted[static_cast<size_t>(i)]) <= tolerance * largest);
  };
  check(of_bias, bias_wanted);
  if (given) return;
  check(of_x, x_wanted);
  check(of_weight, weight_wanted);
}

void test_decoder_layer() {
  for (int64_t dtype : kFormats)
    for (bool grid : {false, true}) {
      test_decoder_layer_case(dtype, grid, 6, 6, 1, 3, false);
      test_decoder_layer_case(dtype, grid, 8, 12, 4, 4, false);
      test_decoder_layer_case(dtype, grid, 36, 36, 2, 3, false);
      test_decoder_layer_case(dtype, grid, 7, 7, 7, grid ? 5 : 11, false);  // wider than the sequence
      test_decoder_layer_case(dtype, grid, 19, 19, 1, 3, true);
    }
}

// Beside plain sums in double: with distances, or with a bias that two sequences share.
void test_attention_case(int64_t dtype, int64_t dim, bool hidden, bool biased) {
  const int64_t heads = 2, real = dtype == d2v::F64 ? d2v::F64 : d2v::F32;
  const vector<int32_t> starts{0, 1, 1, 6, 45};
  const int64_t samples = 4, tokens = 45;
  vector<int64_t> positions;
  for (int64_t i = 0; i < tokens; ++i) positions.push_back(i % 9 == 0 ? -1 : i * 3 % 50);
  vector<uint8_t> visible(static_cast<size_t>(tokens));
  for (size_t i = 0; i < visible.size(); ++i) visible[i] = i != 0 && i % 4 != 2;  // the first sequence sees nothing
  Buffer qkv = Buffer(dtype, tokens * 3 * heads * dim, 1).fill(1), gradient = Buffer(dtype, tokens * heads * dim, 1).fill(2);
  Buffer factors(real, heads, 1), out(dtype, tokens * heads * dim, 1), logs(real, heads * tokens, 1);
  Buffer of_query(dtype, out.size, 1), of_key(dtype, out.size, 1), of_value(dtype, out.size, 1);
  for (int64_t i = 0; i < qkv.size; ++i) qkv.set(i, qkv.at(i) / 4);
  for (int64_t h = 0; h < heads; ++h) factors.set(h, 0.0625 * static_cast<double>(h + 1));
  vector<double> shares(static_cast<size_t>(samples * heads), 7.0);
  const int64_t longest = 41, cells = longest * longest;
  Buffer bias = Buffer(real, heads * cells, 1).fill(3), of_bias = Buffer(real, 2 * heads * cells, 1);
  for (int64_t i = 0; i < of_bias.size; ++i) of_bias.set(i, 0);
  vector<double> bias_wanted(static_cast<size_t>(of_bias.size), 0.0);
  const int64_t bias_strides[3] = {0, cells, longest};
  const int64_t strides[2] = {3 * heads * dim, dim}, own[2] = {heads * dim, dim};
  const auto part = [&](int64_t i) { return static_cast<char*>(qkv.data()) + i * heads * dim * bytes_of(dtype); };
  const d2v::Attention x = {part(0), part(1), part(2), strides, strides, strides, starts.data(), positions.data(),
                            hidden ? visible.data() : nullptr, biased ? nullptr : factors.data(), biased ? bias.data() : nullptr,
                            bias_strides, out.data(), logs.data(), gradient.data(), own, of_query.data(), of_key.data(), of_value.data(),
                            biased ? nullptr : shares.data(), biased ? of_bias.data() : nullptr, samples, tokens, heads, dim, dtype,
                            longest, biased ? 2 : 1, true, 0, 0, 0.0};
  CHECK(kernels.attention_forward(x, 2));
  CHECK(kernels.attention_backward(x, 2));
  const double tolerance = 64 * unit(dtype);
  const auto of = [&](int64_t which, int64_t token, int64_t h, int64_t c) { return qkv.at(((token * 3 + which) * heads + h) * dim + c); };
  const auto at = [&](int64_t token, int64_t h, int64_t c) { return (token * heads + h) * dim + c; };
  for (int64_t s = 0; s < samples; ++s)
    for (int64_t h = 0; h < heads; ++h) {
      const int64_t first = starts[static_cast<size_t>(s)], n = starts[static_cast<size_t>(s) + 1] - first;
      vector<double> of_k(static_cast<size_t>(n * dim), 0.0), of_v(of_k);
      double share = 0;
      for (int64_t i = 0; i < n; ++i) {
        vector<double> weights;
        double total = 0, mean = 0;
        for (int64_t j = 0; j < n; ++j) {
          const int64_t from = positions[static_cast<size_t>(first + i)], to = positions[static_cast<size_t>(first + j)];
          double score = biased ? bias.at((h * longest + i) * longest + j) : from >= 0 && to >= 0 ? -factors.at(h) * fabs(static_cast<double>(from - to)) : 0.0;
          for (int64_t c = 0; c < dim; ++c) score += of(0, first + i, h, c) * of(1, first + j, h, c) / sqrt(static_cast<double>(dim));
          weights.push_back(hidden && !visible[static_cast<size_t>(first + j)] ? 0.0 : exp(score));
          total += weights.back();
        }
        for (double& weight : weights) weight /= total > 0 ? total : 1.0;
        for (int64_t c = 0; c < dim; ++c) {
          double sum = 0;
          for (int64_t j = 0; j < n; ++j) sum += weights[static_cast<size_t>(j)] * of(2, first + j, h, c);
          CHECK(close(out.at(at(first + i, h, c)), sum, tolerance));
          mean += out.at(at(first + i, h, c)) * gradient.at(at(first + i, h, c));
        }
        vector<double> of_q(static_cast<size_t>(dim), 0.0);
        for (int64_t j = 0; j < n; ++j) {
          const double weight = weights[static_cast<size_t>(j)];
          double slope = 0;
          for (int64_t c = 0; c < dim; ++c) slope += gradient.at(at(first + i, h, c)) * of(2, first + j, h, c);
          slope = weight * (slope - mean);
          const int64_t from = positions[static_cast<size_t>(first + i)], to = positions[static_cast<size_t>(first + j)];
          bias_wanted[static_cast<size_t>(((s / 2 * heads + h) * longest + i) * longest + j)] += slope;
          if (from >= 0 && to >= 0) share -= slope * fabs(static_cast<double>(from - to));
          for (int64_t c = 0; c < dim; ++c) {
            of_q[static_cast<size_t>(c)] += slope * of(1, first + j, h, c) / sqrt(static_cast<double>(dim));
            of_k[static_cast<size_t>(j * dim + c)] += slope * of(0, first + i, h, c) / sqrt(static_cast<double>(dim));
            of_v[static_cast<size_t>(j * dim + c)] += weight * gradient.at(at(first + i, h, c));
          }
        }
        for (int64_t c = 0; c < dim; ++c) CHECK(fabs(of_query.at(at(first + i, h, c)) - of_q[static_cast<size_t>(c)]) <= 16 * tolerance);
      }
      for (int64_t j = 0; j < n; ++j)
        for (int64_t c = 0; c < dim; ++c) {
          CHECK(fabs(of_key.at(at(first + j, h, c)) - of_k[static_cast<size_t>(j * dim + c)]) <= 16 * tolerance);
          CHECK(fabs(of_value.at(at(first + j, h, c)) - of_v[static_cast<size_t>(j * dim + c)]) <= 16 * tolerance);
        }
      if (!biased) CHECK(fabs(shares[static_cast<size_t>(s * heads + h)] - share) <= 1024 * tolerance);
    }
  for (int64_t i = 0; biased && i < of_bias.size; ++i) CHECK(fabs(of_bias.at(i) - bias_wanted[static_cast<size_t>(i)]) <= 16 * tolerance);
}

}  // namespace

void test_views() {
  test_restore();
  test_decoder_layer();
  for (int64_t dtype : kFormats)
    for (int64_t dim : {3, 20}) {
      test_attention_case(dtype, dim, false, false);
      test_attention_case(dtype, dim, true, false);
      test_attention_case(dtype, dim, true, true);
    }
}
