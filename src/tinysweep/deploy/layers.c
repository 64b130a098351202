/* Sums are 32 bits wide and come back to 8 bits by a fraction of 31 bits and a shift, which rounds to the nearest.
   Shifting a negative number right is taken to keep its sign, as all common compilers do. */

static uint8_t narrow(int64_t product, int shift, int32_t zero)
{
    const int64_t value = ((product + ((int64_t)1 << (shift - 1))) >> shift) + zero;
    return (uint8_t)(value < 0 ? 0 : value > 255 ? 255 : value);
}

typedef struct {
    int channels, height, width; /* of the input */
    int stride_row, stride_plane; /* from one row, and one channel, of the input to the next */
    int outputs, kernel, stride, padding, groups;
    int32_t zero_in, zero_out;
    const int8_t *weights;
    const int32_t *bias, *factors;
    const uint8_t *shifts;
    const uint8_t *input_tables; /* 256 bytes a channel, or 0 */
    const uint8_t *table; /* 256 bytes, or 0 */
} convolution;

static void convolve(const convolution *c, const uint8_t *in, uint8_t *out)
{
    const int high = (c->height + 2 * c->padding - c->kernel) / c->stride + 1;
    const int wide = (c->width + 2 * c->padding - c->kernel) / c->stride + 1;
    const int inputs = c->channels / c->groups, each = c->outputs / c->groups;
    for (int o = 0; o < c->outputs; o++) {
        const int first = o / each * inputs;
        for (int y = 0; y < high; y++) {
            for (int x = 0; x < wide; x++) {
                const int8_t *weight = c->weights + (long)o * inputs * c->kernel * c->kernel;
                int32_t sum = c->bias[o];
                for (int i = 0; i < inputs; i++) {
                    const uint8_t *plane = in + (long)(first + i) * c->stride_plane;
                    const uint8_t *table = c->input_tables ? c->input_tables + 256 * (first + i) : 0;
                    for (int down = 0; down < c->kernel; down++) {
                        const int row = y * c->stride - c->padding + down;
                        for (int right = 0; right < c->kernel; right++, weight++) {
                            const int column = x * c->stride - c->padding + right;
                            if (row < 0 || row >= c->height || column < 0 || column >= c->width)
                                continue;
                            const uint8_t code = plane[row * c->stride_row + column];
                            sum += ((table ? table[code] : code) - c->zero_in) * *weight;
                        }
                    }
                }
                const uint8_t code = narrow((int64_t)sum * c->factors[o], c->shifts[o], c->zero_out);
                *out++ = c->table ? c->table[code] : code;
            }
        }
    }
}

static inline void pool(const uint8_t *in, int channels, int height, int width, const uint8_t *table, uint8_t *out)
{
    for (int c = 0; c < channels; c++, in += (long)height * width) {
        for (int y = 0; y < height / 2; y++) {
            for (int x = 0; x < width / 2; x++) {
                const uint8_t *at = in + 2 * y * width + 2 * x;
                uint8_t most = at[0];
                most = at[1] > most ? at[1] : most;
                most = at[width] > most ? at[width] : most;
                most = at[width + 1] > most ? at[width + 1] : most;
                *out++ = table ? table[most] : most;
            }
        }
    }
}

static inline void look_up(const uint8_t *in, long count, const uint8_t *table, uint8_t *out)
{
    for (long i = 0; i < count; i++)
        out[i] = table[in[i]];
}

static inline void add(const uint8_t *a, const uint8_t *b, long count, int32_t zero_a, int32_t zero_b,
                       int64_t factor_a, int64_t factor_b, int shift, int32_t zero, const uint8_t *table, uint8_t *out)
{
    for (long i = 0; i < count; i++) {
        const uint8_t code = narrow((a[i] - zero_a) * factor_a + (b[i] - zero_b) * factor_b, shift, zero);
        out[i] = table ? table[code] : code;
    }
}

static inline void scale(const uint8_t *in, int channels, long pixels, int32_t zero_in, const int32_t *factors,
                         const int64_t *offsets, int shift, int32_t zero, const uint8_t *table, uint8_t *out)
{
    for (int c = 0; c < channels; c++) {
        for (long i = 0; i < pixels; i++, in++) {
            const uint8_t code = narrow((int64_t)(*in - zero_in) * factors[c] + offsets[c], shift, zero);
            *out++ = table ? table[code] : code;
        }
    }
}

static inline void sum(const uint8_t *in, int channels, long pixels, int32_t zero_in, int32_t factor, int shift,
                       int32_t zero, const uint8_t *table, uint8_t *out)
{
    for (int c = 0; c < channels; c++) {
        int32_t total = 0;
        for (long i = 0; i < pixels; i++)
            total += *in++ - zero_in;
        const uint8_t code = narrow((int64_t)total * factor, shift, zero);
        *out++ = table ? table[code] : code;
    }
}

static inline void weighted_sum(const uint8_t *in, const int16_t *weights, int channels, long pixels, int32_t zero_in,
                                int32_t inner_factor, int inner_shift, int32_t inner_zero, int32_t factor, int shift,
                                int32_t zero, const uint8_t *table, uint8_t *out)
{
    for (int c = 0; c < channels; c++) {
        int32_t total = 0;
        for (long i = 0; i < pixels; i++) {
            const int64_t product = (int64_t)((*in++ - zero_in) * *weights++) * inner_factor;
            total += narrow(product, inner_shift, inner_zero) - inner_zero;
        }
        const uint8_t code = narrow((int64_t)total * factor, shift, zero);
        *out++ = table ? table[code] : code;
    }
}
