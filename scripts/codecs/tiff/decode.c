// Decodes the first image of a TIFF, whose directory the host has checked, row by row.
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host.h"
#include "tiffiop.h"

// What tif_unix.c has for systems with files.
TIFFErrorHandler _TIFFwarningHandler = NULL;
TIFFErrorHandler _TIFFerrorHandler = NULL;
void* _TIFFmalloc(tmsize_t size) { return size > 0 ? malloc((size_t)size) : NULL; }
void* _TIFFcalloc(tmsize_t count, tmsize_t size) { return count > 0 && size > 0 ? calloc((size_t)count, (size_t)size) : NULL; }
void _TIFFfree(void* memory) { free(memory); }
void* _TIFFrealloc(void* memory, tmsize_t size) { return realloc(memory, (size_t)size); }
void _TIFFmemset(void* memory, int value, tmsize_t size) { memset(memory, value, (size_t)size); }
void _TIFFmemcpy(void* to, const void* from, tmsize_t size) { memcpy(to, from, (size_t)size); }
int _TIFFmemcmp(const void* a, const void* b, tmsize_t size) { return memcmp(a, b, (size_t)size); }

// The first error, for the text that the client gets.
static char error_text[200];

__attribute__((export_name("error"))) const char* error(void) { return error_text; }

static void on_error(const char* module, const char* format, va_list arguments) {
  (void)module;
  if (error_text[0] == 0) vsnprintf(error_text, sizeof error_text, format, arguments);
}

typedef struct {
  uint8_t* data;
  toff_t size, at;
} File;

static tmsize_t read_file(thandle_t handle, void* to, tmsize_t size) {
  File* file = (File*)handle;
  const toff_t rest = file->at < file->size ? file->size - file->at : 0;
  if ((toff_t)size > rest) size = (tmsize_t)rest;
  memcpy(to, file->data + file->at, (size_t)size);
  file->at += (toff_t)size;
  return size;
}
static tmsize_t write_file(thandle_t handle, void* from, tmsize_t size) { return (void)handle, (void)from, (void)size, 0; }
static toff_t seek_file(thandle_t handle, toff_t at, int from) {
  File* file = (File*)handle;
  return file->at = at + (from == SEEK_CUR ? file->at : from == SEEK_END ? file->size : 0);
}
static toff_t file_size(thandle_t handle) { return ((File*)handle)->size; }
static int close_file(thandle_t handle) { return (void)handle, 0; }
static int map_file(thandle_t handle, void** data, toff_t* size) {
  *data = ((File*)handle)->data;
  *size = ((File*)handle)->size;
  return 1;
}
static void unmap_file(thandle_t handle, void* data, toff_t size) { (void)handle, (void)data, (void)size; }

typedef struct {
  TIFF* tif;
  uint32_t width, height;
  uint16_t bits, samples, photometric, compression;
  int associated;  // the sample after the colours is an alpha that they are multiplied by
  int planar;
  int deep;                // rows go out with all bits: 16 for each sample, and inks as they are
  uint8_t levels[256][3];  // of a palette, or of grey
  // The state of PackBits, whose runs may go on in the next row.
  const uint8_t *packed, *packed_end;
  int run, copied;
  uint8_t value;
} Image;

static uint32_t channels(const Image* image) {
  switch (image->photometric) {
    case PHOTOMETRIC_SEPARATED: return 4;
    case PHOTOMETRIC_RGB:
    case PHOTOMETRIC_YCBCR: return 3;
    default: return 1;
  }
}

// Returns 0 if the memory or the file isn't enough.
static int start(Image* image) {
  TIFF* tif = image->tif;
  uint16_t planar = PLANARCONFIG_CONTIG, extras = 0, *extra = NULL;
  TIFFGetFieldDefaulted(tif, TIFFTAG_BITSPERSAMPLE, &image->bits);
  TIFFGetFieldDefaulted(tif, TIFFTAG_SAMPLESPERPIXEL, &image->samples);
  TIFFGetFieldDefaulted(tif, TIFFTAG_PLANARCONFIG, &planar);
  TIFFGetFieldDefaulted(tif, TIFFTAG_COMPRESSION, &image->compression);
  if (!TIFFGetField(tif, TIFFTAG_PHOTOMETRIC, &image->photometric)) image->photometric = PHOTOMETRIC_MINISWHITE;
  if (TIFFGetField(tif, TIFFTAG_EXTRASAMPLES, &extras, &extra) && extras > 0) image->associated = extra[0] == EXTRASAMPLE_ASSOCALPHA;
  image->planar = planar == PLANARCONFIG_SEPARATE && image->samples > 1;
  if (image->samples < channels(image)) return 0;
  if (image->photometric == PHOTOMETRIC_YCBCR) TIFFSetField(tif, TIFFTAG_JPEGCOLORMODE, JPEGCOLORMODE_RGB);
  if (image->photometric == PHOTOMETRIC_PALETTE) {
    uint16_t* map[3];
    if (!TIFFGetField(tif, TIFFTAG_COLORMAP, &map[0], &map[1], &map[2])) return 0;
    for (int i = 0; i < 1 << image->bits; i++) {
      for (int c = 0; c < 3; c++) image->levels[i][c] = (uint8_t)(map[c][i] >> 8);
    }
  } else if (image->bits <= 8) {
    const int largest = (1 << image->bits) - 1;
    for (int i = 0; i <= largest; i++) {
      const int level = image->photometric == PHOTOMETRIC_MINISWHITE ? largest - i : i;
      memset(image->levels[i], level * 255 / largest, 3);
    }
  }
  return 1;
}

// Reads `size` bytes of a block in PackBits.
static int read_packed(Image* image, uint8_t* out, tmsize_t size) {
  while (size > 0) {
    if (image->run > 0) {
      const tmsize_t n = image->run < size ? image->run : size;
      memset(out, image->value, (size_t)n);
      out += n, size -= n, image->run -= (int)n;
    } else if (image->copied > 0) {
      tmsize_t n = image->copied < size ? image->copied : size;
      if (n > image->packed_end - image->packed) return 0;
      memcpy(out, image->packed, (size_t)n);
      out += n, size -= n, image->copied -= (int)n, image->packed += n;
    } else {
      if (image->packed == image->packed_end) return 0;
      const int code = (int8_t)*image->packed++;
      if (code >= 0) {
        image->copied = code + 1;
      } else if (code != -128) {
        if (image->packed == image->packed_end) return 0;
        image->run = 1 - code;
        image->value = *image->packed++;
      }
    }
  }
  return 1;
}

// Opens a strip or tile.
static int open_block(Image* image, uint32_t block) {
  TIFF* tif = image->tif;
  if (!(isTiled(tif) ? TIFFFillTile(tif, block) : TIFFFillStrip(tif, block))) return 0;
  image->packed = tif->tif_rawcp;
  image->packed_end = tif->tif_rawcp + tif->tif_rawcc;
  image->run = image->copied = 0;
  return 1;
}

static int read_row(Image* image, uint8_t* row, tmsize_t size, uint16_t sample) {
  TIFF* tif = image->tif;
  if (image->compression == COMPRESSION_PACKBITS) return read_packed(image, row, size);
  if (tif->tif_decoderow(tif, row, size, sample) <= 0) return 0;
  tif->tif_postdecode(tif, row, size);
  return 1;
}

static uint8_t divided(uint32_t value, uint32_t alpha, uint32_t largest) {
  if (alpha == 0) return 0;
  value = value >= alpha ? largest : (uint32_t)((uint64_t)value * largest / alpha);
  return (uint8_t)(largest == 255 ? value : value >> 8);
}

static uint8_t ink(uint32_t level, uint32_t rest) {  // rest * (255 - level) / 255, as Pillow rounds it
  const uint32_t product = level * rest + 128;
  return (uint8_t)(rest - (((product >> 8) + product) >> 8));
}

// Sets out to the RGB pixels of a row of interleaved samples.
static void convert(const Image* image, uint8_t* out, const uint8_t* row) {
  const uint32_t samples = image->samples, n = image->width, colours = channels(image);
  const uint16_t* row16 = (const uint16_t*)row;
  if (image->bits < 8) {
    const uint32_t per_byte = 8 / image->bits, mask = (1u << image->bits) - 1;
    for (uint32_t x = 0; x < n; x++, out += 3) {
      const uint32_t sample = x * samples;
      const uint32_t value = row[sample / per_byte] >> (8 - image->bits * (1 + sample % per_byte)) & mask;
      memcpy(out, image->levels[value], 3);
    }
    return;
  }
  const int divides = image->associated && samples > colours && colours != 4;
  if (image->bits == 16) {
    const uint16_t flip = image->photometric == PHOTOMETRIC_MINISWHITE ? 0xffff : 0;
    for (uint32_t x = 0; x < n; x++, out += 3, row16 += samples) {
      for (uint32_t c = 0; c < 3; c++) {
        const uint16_t value = (colours == 1 ? row16[0] : row16[c]) ^ flip;
        out[c] = divides ? divided(value, row16[colours], 0xffff) : (uint8_t)(value >> 8);
      }
      if (colours == 4) {
        const uint32_t rest = 255u - (row16[3] >> 8);
        for (int c = 0; c < 3; c++) out[c] = ink(row16[c] >> 8, rest);
      }
    }
    return;
  }
  if (colours == 1) {
    for (uint32_t x = 0; x < n; x++, out += 3, row += samples) {
      const uint8_t* level = image->levels[row[0]];
      out[0] = level[0], out[1] = level[1], out[2] = level[2];
      if (divides) memset(out, divided(level[0], row[1], 255), 3);
    }
  } else if (colours == 4) {
    for (uint32_t x = 0; x < n; x++, out += 3, row += samples) {
      const uint32_t rest = 255u - row[3];
      for (int c = 0; c < 3; c++) out[c] = ink(row[c], rest);
    }
  } else if (divides) {
    for (uint32_t x = 0; x < n; x++, out += 3, row += samples) {
      for (int c = 0; c < 3; c++) out[c] = row[3] == 255 ? row[c] : divided(row[c], row[3], 255);
    }
  } else if (samples == 3) {
    memcpy(out, row, 3 * (size_t)n);
  } else {
    for (uint32_t x = 0; x < n; x++, out += 3, row += samples) out[0] = row[0], out[1] = row[1], out[2] = row[2];
  }
}

static uint16_t divided16(uint16_t value, uint16_t alpha) {
  return alpha == 0 ? 0 : value >= alpha ? 0xffff : (uint16_t)((uint64_t)value * 0xffff / alpha);
}

// Sets out to the samples of a row of 8 or 16 bits: three of RGB, or four of inks.
static void deepen(const Image* image, uint16_t* out, const uint8_t* row) {
  const uint32_t samples = image->samples, colours = channels(image), sent = colours == 4 ? 4 : 3;
  const uint16_t* row16 = (const uint16_t*)row;
  const uint16_t flip = image->photometric == PHOTOMETRIC_MINISWHITE ? 0xffff : 0;
  const int divides = image->associated && samples > colours && colours != 4;
  for (uint32_t x = 0; x < image->width; x++, out += sent, row += samples, row16 += samples) {
    for (uint32_t c = 0; c < sent; c++) {
      const uint32_t i = colours == 1 ? 0 : c;
      out[c] = (image->bits == 16 ? row16[i] : (uint16_t)(row[i] * 257)) ^ flip;
      if (divides) out[c] = divided16(out[c], image->bits == 16 ? row16[colours] : (uint16_t)(row[colours] * 257));
    }
  }
}

// Bytes of a row for the host.
static size_t row_size(const Image* image) { return (size_t)image->width * (!image->deep ? 3 : channels(image) == 4 ? 8 : 6); }

// Rows that the host takes at a time.
typedef struct {
  uint8_t *rgb, *alpha;  // alpha: NULL: the host doesn't want it
  int32_t rows, most;
} Out;

static int flush(Out* out) {
  if (out->rows == 0) return 1;
  const int32_t rows = out->rows;
  out->rows = 0;
  return host_rows(out->rgb, rows, out->alpha);
}

// Sets out to the alpha of a row, which is the sample after the colours.
static void alpha_of(const Image* image, uint8_t* out, const uint8_t* row) {
  const uint32_t colours = channels(image);
  const uint16_t* row16 = (const uint16_t*)row;
  for (uint32_t x = 0; x < image->width; x++) {
    const uint32_t i = x * image->samples + colours;
    out[x] = image->bits == 16 ? (uint8_t)(row16[i] >> 8) : row[i];
  }
}

static int put(const Image* image, Out* out, const uint8_t* row) {
  uint8_t* to = out->rgb + row_size(image) * (size_t)out->rows;
  if (image->deep) {
    deepen(image, (uint16_t*)to, row);
  } else {
    convert(image, to, row);
  }
  if (out->alpha != NULL) alpha_of(image, out->alpha + (size_t)image->width * (size_t)out->rows, row);
  return ++out->rows < out->most || flush(out);
}

// Strips whose samples are interleaved are streamed row by row.
static int32_t decode_strips(Image* image, Out* out, uint32_t rows_per_strip) {
  const tmsize_t size = TIFFScanlineSize(image->tif);
  uint8_t* row = malloc((size_t)size);
  if (row == NULL) return kOutOfMemory;
  for (uint32_t y = 0; y < image->height; y++) {
    if (y % rows_per_strip == 0 && !open_block(image, y / rows_per_strip)) return kBroken;
    if (!read_row(image, row, size, 0)) return kBroken;
    if (!put(image, out, row)) return kEnded;
  }
  return kDone;
}

// Copies the part of a block's row that lies in the image into a row of interleaved samples.
static void place(const Image* image, uint8_t* to, const uint8_t* from, uint32_t left, uint32_t pixels, uint32_t sample) {
  const uint32_t bytes = image->bits / 8, size = image->samples * bytes;
  if (!image->planar) {
    const uint32_t bits = image->bits * image->samples;
    memcpy(to + left * bits / 8, from, (pixels * bits + 7) / 8);
    return;
  }
  to += (size_t)left * size + sample * bytes;
  for (uint32_t x = 0; x < pixels; x++, to += size, from += bytes) {
    to[0] = from[0];
    if (bytes == 2) to[1] = from[1];
  }
}

// Tiles, and strips of planes, are put together in a band of the image's width.
static int32_t decode_blocks(Image* image, Out* out, uint32_t block_width, uint32_t block_height) {
  TIFF* tif = image->tif;
  const uint32_t across = (image->width + block_width - 1) / block_width, down = (image->height + block_height - 1) / block_height;
  const uint32_t planes = image->planar ? image->samples : 1;
  const uint32_t rows_of_band = block_height < image->height ? block_height : image->height;
  const tmsize_t size = isTiled(tif) ? TIFFTileRowSize(tif) : TIFFScanlineSize(tif);
  const size_t stride = ((size_t)image->width * image->samples * image->bits + 7) / 8;
  uint8_t *row = malloc((size_t)size), *band = malloc(stride * rows_of_band);
  if (row == NULL || band == NULL) return kOutOfMemory;
  for (uint32_t j = 0; j < down; j++) {
    const uint32_t rest = image->height - j * block_height, rows = rest < block_height ? rest : block_height;
    for (uint32_t plane = 0; plane < planes; plane++) {
      for (uint32_t i = 0; i < across; i++) {
        const uint32_t left = i * block_width, right = image->width - left;
        if (!open_block(image, (plane * down + j) * across + i)) return kBroken;
        for (uint32_t y = 0; y < rows; y++) {
          if (!read_row(image, row, size, (uint16_t)plane)) return kBroken;
          place(image, band + stride * y, row, left, right < block_width ? right : block_width, plane);
          if (y % 16 == 0 && !host_proceed()) return kEnded;
        }
      }
    }
    for (uint32_t y = 0; y < rows; y++) {
      if (!put(image, out, band + stride * y)) return kEnded;
    }
  }
  return kDone;
}

// Decodes a file of this size in pixels, and gives the host at most `most` rows at a time. alpha: with alpha, which samples of 8
// or 16 bits must have after their colours. deep: with all bits.
__attribute__((export_name("decode"))) int32_t decode(uint8_t* data, int32_t size, uint32_t width, uint32_t height, int32_t most,
                                                      int32_t alpha, int32_t deep) {
  File file = {data, (toff_t)size, 0};
  Image image = {.width = width, .height = height, .deep = deep};
  uint32_t stored_width = 0, stored_height = 0, block_width = width, block_height = height;
  TIFFSetErrorHandler(on_error);
  TIFFSetWarningHandler(NULL);
  image.tif = TIFFClientOpen("image", "rc", &file, read_file, write_file, seek_file, close_file, file_size, map_file, unmap_file);
  if (image.tif == NULL) return kBroken;
  TIFFGetField(image.tif, TIFFTAG_IMAGEWIDTH, &stored_width);
  TIFFGetField(image.tif, TIFFTAG_IMAGELENGTH, &stored_height);
  if (stored_width != width || stored_height != height || !start(&image)) return kBroken;
  if (alpha && (image.bits < 8 || image.samples <= channels(&image))) return kBroken;
  Out out = {malloc(row_size(&image) * (size_t)most), alpha ? malloc((size_t)width * (size_t)most) : NULL, 0, most};
  if (out.rgb == NULL || (alpha && out.alpha == NULL)) return kOutOfMemory;
  int32_t result;
  if (isTiled(image.tif)) {
    TIFFGetField(image.tif, TIFFTAG_TILEWIDTH, &block_width);
    TIFFGetField(image.tif, TIFFTAG_TILELENGTH, &block_height);
    result = decode_blocks(&image, &out, block_width, block_height);
  } else {
    TIFFGetField(image.tif, TIFFTAG_ROWSPERSTRIP, &block_height);
    if (block_height == 0 || block_height > height) block_height = height;
    result = image.planar ? decode_blocks(&image, &out, width, block_height) : decode_strips(&image, &out, block_height);
  }
  if (result == kDone && !flush(&out)) result = kEnded;
  return result;
}
