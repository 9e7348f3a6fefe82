/*
 * torchherd.h: the whole C ABI of libtorchherd.
 *
 * Why it exists: LibTorch speaks C++ (templates, exceptions, an ABI that moves with its compiler), and
 * libjpeg-turbo reports its errors by longjmp. Neither can be called from Go. This header is what both
 * look like from the outside:
 *
 *     Go: torch/  ->  torchherd.h  ->  csrc/src/  ->  LibTorch, libjpeg-turbo
 *
 * Rules that hold for every function below:
 *
 *  - Errors. A function that can fail returns thd_error*: NULL is success; anything else is owned by the
 *    caller, who reads its code and message and frees it with thd_error_free. There is no last-error
 *    state, so an error belongs to its call, whichever thread looks at it. No C++ exception and no
 *    longjmp leaves the library. On failure, out parameters are left untouched.
 *  - Pointers. "borrowed" is valid only for the call; the library keeps no pointer of the caller's after
 *    it returns. "owned" passes ownership to the caller. Pointers are not nullable unless so stated;
 *    a NULL where none is allowed is THD_ERROR_INVALID_ARGUMENT.
 *  - Threads. Functions on different handles may run at the same time. Functions on one handle must not,
 *    unless so stated. LibTorch keeps state per thread (thread pools, caches), so a module runs best when
 *    one thread serves it for its whole life.
 *  - Pixels are uint8 in rows from top to bottom, channels interleaved (HWC), rows without padding.
 *
 * Version check: call thd_abi_version() and compare it with THD_ABI_VERSION before anything else.
 */
#ifndef TORCHHERD_H
#define TORCHHERD_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The library is built with hidden visibility; what stands here is what leaves it. */
#ifdef __GNUC__
#pragma GCC visibility push(default)
#endif

/* Raised by every change that breaks a caller built against an older header. */
#define THD_ABI_VERSION 4

/* ---- errors ---- */

typedef enum thd_code {
  THD_OK = 0,
  /* The caller broke a rule of this header: a NULL, a size below one, dimensions that don't fit. */
  THD_ERROR_INVALID_ARGUMENT = 1,
  /* No file at that path, or it can't be read. */
  THD_ERROR_NOT_FOUND = 2,
  /* The file is there, but isn't a module or package that this LibTorch can load. */
  THD_ERROR_NOT_A_MODULE = 3,
  /* The device has no such name, or this machine or this LibTorch doesn't have it. */
  THD_ERROR_DEVICE = 4,
  /* The module raised an error while it ran: a shape or dtype it doesn't take, or its own exception. */
  THD_ERROR_FORWARD = 5,
  /* The module ran, but its answer isn't what was asked for: not a tensor, wrong count, wrong shape. */
  THD_ERROR_OUTPUT = 6,
  THD_ERROR_OUT_OF_MEMORY = 7,
  /* The bytes are not a picture that can be decoded: broken, truncated or of an unknown kind. */
  THD_ERROR_BAD_PICTURE = 8,
  /* The picture has more pixels than the caller's limit. */
  THD_ERROR_TOO_MANY_PIXELS = 9,
  /* The picture has fewer than three colour channels. */
  THD_ERROR_NOT_RGB = 10,
  /* Anything else; a defect of this library or of one beneath it. */
  THD_ERROR_INTERNAL = 11
} thd_code;

typedef struct thd_error thd_error;

thd_code thd_error_code(const thd_error* error);
/* UTF-8, one or more lines, without a trailing newline. Borrowed from the error: valid until it is freed. */
const char* thd_error_message(const thd_error* error);
/* error: owned, given back here; NULL does nothing. From any thread. */
void thd_error_free(thd_error* error);

/* ---- versions, threads, devices ---- */

uint32_t thd_abi_version(void);
/* Versions of what the library was built against, such as "2.15.0". Static strings. From any thread. */
const char* thd_libtorch_version(void);
const char* thd_libjpeg_version(void);

/* Sets how many threads one forward may use (LibTorch's intra-op pool), 1 or more, for all modules.
 * Call it before the first forward. */
thd_error* thd_set_num_threads(int32_t threads);
int32_t thd_num_threads(void);

/* Gives memory of the C library's allocator that nobody uses back to the system, where it keeps some (glibc). A
 * module that was freed leaves its memory there. Takes milliseconds, in which others wait to allocate. */
void thd_release_memory(void);

/* Checks that a device ("cpu", "cuda", "cuda:1") can be used, and loads LibTorch's CUDA library the first
 * time a CUDA device is named; a process that asks only for the CPU never needs one of CUDA's libraries.
 * THD_ERROR_DEVICE says what is missing. The first call that names a CUDA device must come before any
 * module is loaded, since LibTorch looks for its CUDA part once. device: borrowed. */
thd_error* thd_device_check(const char* device);

/* *out: the compute capability of a CUDA device, ten times its major number and its minor one, such as 90; 0 for the
 * CPU, and where the driver doesn't tell. device: borrowed. Errors: DEVICE. */
thd_error* thd_device_capability(const char* device, int32_t* out);

/* ---- tensors ---- */

typedef enum thd_dtype {
  THD_UINT8 = 0,
  THD_INT32 = 1,
  THD_INT64 = 2,
  THD_FLOAT16 = 3,
  THD_FLOAT32 = 4,
  THD_FLOAT64 = 5
} thd_dtype;

#define THD_MAX_DIMS 8

/* A dense tensor in host memory, rows contiguous (C order). */
typedef struct thd_tensor_view {
  thd_dtype dtype;
  int32_t dims; /* 0 to THD_MAX_DIMS */
  int64_t shape[THD_MAX_DIMS];
  void* data; /* product(shape) elements; borrowed from whoever made the view; NULL only with no element */
} thd_tensor_view;

/* ---- modules ---- */

/* A model on one device: a TorchScript module in evaluation mode, its weights frozen, or an AOTInductor
 * package. */
typedef struct thd_module thd_module;

/* In which format a TorchScript module computes. What it takes and gives stays float32. */
typedef enum thd_precision {
  THD_FP32 = 0, /* float32; on CUDA without TF32 */
  THD_TF32 = 1, /* CUDA: float32 whose products are rounded to 10 bits after the point */
  THD_BF16 = 2, /* convolutions and matrix products in bfloat16, by LibTorch's autocast */
  THD_FP16 = 3  /* CUDA: likewise in float16 */
} thd_precision;

/* The channels of the tensor that a module gets of a picture, in their order. */
typedef enum thd_channels {
  THD_RGB = 0,
  THD_BGR = 1, /* of an answer of three channels, too */
  THD_GRAY = 2 /* one: (19595 R + 38470 G + 7471 B + 32768) >> 16 of the bytes, as Pillow's convert("L") */
} thd_channels;

/* What a module wants of its pixels, and what its answers mean. Of a byte v it gets (x - mean[c]) / std[c], where
 * x = input_low + v/255 * (input_high - input_low) and c counts the channels of its tensor; of a value y of its answer
 * comes the byte of (y - output_low) / (output_high - output_low). All numbers are finite, the two of a range differ,
 * and std is above 0. */
typedef struct thd_values {
  thd_channels channels;
  float input_low, input_high;
  float mean[3], std[3]; /* of gray the first alone */
  float output_low, output_high;
} thd_values;

typedef struct thd_load_options {
  const char* device;       /* "cpu", "cuda", "cuda:1"; borrowed */
  thd_precision precision;  /* of a package THD_FP32: it computes as it was compiled */
  int32_t graphs;           /* CUDA: 1 to replay each batch's shape as a CUDA graph once it is warm; else 0 */
  const thd_values* values; /* for pictures; borrowed; NULL: RGB in 0..1, and answers in 0..1 */
} thd_load_options;

/* Loads a TorchScript file onto a device. file: a descriptor that is open for reading; borrowed, and its position is
 * left alone, so that several loads may use it at the same time. name: what messages call the file. name, options:
 * borrowed. *out: owned, freed by thd_module_free.
 * Errors: NOT_A_MODULE, also for a file that becomes shorter meanwhile; DEVICE, OUT_OF_MEMORY; INVALID_ARGUMENT for
 * options that the device doesn't have and for a file that isn't open. */
thd_error* thd_module_load(int32_t file, const char* name, const thd_load_options* options, thd_module** out);
/* The same from a file's content in memory. data: borrowed. */
thd_error* thd_module_load_memory(const void* data, size_t size, const thd_load_options* options,
                                  thd_module** out);
/* Loads an AOTInductor package that the caller has unpacked. library: its shared object; folder: where its other
 * files lie. Both are borrowed; on the CPU the files may be removed as soon as this returns, on CUDA when the module
 * is freed. A package can run on the device's kind that it was compiled for, and only with inputs of the dtype and of
 * the shapes that it was compiled for; it answers others with FORWARD. Errors: as above, and NOT_FOUND for the shared
 * object. */
thd_error* thd_module_load_package(const char* library, const char* folder, const thd_load_options* options,
                                   thd_module** out);
/* module: owned, given back here; NULL does nothing. */
void thd_module_free(thd_module* module);

typedef struct thd_module_info {
  /* The inputs of forward, one "name: type" a line, as the module declares them. Borrowed: valid until the
   * module is freed. TorchScript declares "Tensor", never a shape. */
  const char* inputs;
  const char* device; /* such as "cpu" or "cuda:0"; borrowed likewise */
  int64_t parameters; /* elements in all parameters and buffers */
  int64_t bytes;      /* their size in memory */
} thd_module_info;

/* *out is filled. From any thread. */
thd_error* thd_module_describe(const thd_module* module, thd_module_info* out);

/* The answer to one batch, held by the library until it is read and freed. */
typedef struct thd_result thd_result;

/* Runs the module on one tensor that already is a batch (first dimension: items, at least one).
 * input: borrowed. *out: owned, freed by thd_result_free; *view describes it, and its data is borrowed from
 * the result. Errors: FORWARD, OUTPUT (not one tensor, or of a dtype without a thd_dtype), OUT_OF_MEMORY. */
thd_error* thd_module_forward(thd_module* module, const thd_tensor_view* input, thd_result** out,
                              thd_tensor_view* view);

/* Runs the module on one RGB picture, as thd_module_forward_pictures does, and checks that each value of the answer
 * is a number: not infinite, not NaN. picture: height*width*3 bytes, borrowed.
 * Errors: FORWARD; OUTPUT when it isn't, or as below; OUT_OF_MEMORY. */
thd_error* thd_module_check_finite(thd_module* module, const uint8_t* picture, int32_t height, int32_t width);

/* Runs the module on a batch of RGB pictures of one size: stacks them in their order, turns them into
 * float32 NCHW with the values that the module was loaded for, runs, and keeps the answer for
 * thd_result_read_pictures. On CUDA it returns when the work is queued: the next batch can be given while this one runs.
 *
 * pictures: count pointers to height*width*3 bytes; borrowed. *out: owned. *view gives the answer's shape
 * {count, channels, height, width} (dtype uint8, what will be read); its data is NULL.
 * Errors: FORWARD; OUTPUT when the answer isn't one floating tensor {count, 1 or 3, height, width};
 * OUT_OF_MEMORY. */
thd_error* thd_module_forward_pictures(thd_module* module, const uint8_t* const* pictures, int32_t count,
                                       int32_t height, int32_t width, thd_result** out, thd_tensor_view* view);

/* Waits for the answer and writes its picture i to pictures[i] as height*width*channels bytes, RGB or grey: values
 * are brought to 0..1 by the module's thd_values and clamped (NaN becomes 0), times 255, cut off to whole numbers. pictures: count pointers; borrowed. From any
 * thread, also while its module runs another batch. Errors: FORWARD for what fails on CUDA only as it runs. */
thd_error* thd_result_read_pictures(const thd_result* result, uint8_t* const* pictures, int32_t count);

/* result: owned, given back here; NULL does nothing. */
void thd_result_free(thd_result* result);

/* ---- pictures ---- */

typedef struct thd_jpeg_info {
  int32_t width; /* as stored, before any turn */
  int32_t height;
  int32_t channels;    /* 1 grey, 3 colour, 4 CMYK */
  int32_t orientation; /* EXIF orientation 1 to 8; 1 where there is none */
} thd_jpeg_info;

/* Reads a JPEG's header. data: borrowed. Errors: BAD_PICTURE. From any thread. */
thd_error* thd_jpeg_read_header(const uint8_t* data, size_t size, thd_jpeg_info* out);

/* Instead of an orientation: the one that the file's own EXIF data states. */
#define THD_ORIENTATION_EXIF 0

/* How a picture is resized: the filters of Pillow, with its numbers. */
typedef enum thd_filter {
  THD_NEAREST = 0,
  THD_LANCZOS = 1, /* of three lobes */
  THD_BILINEAR = 2,
  THD_BICUBIC = 3, /* a = -0.5 */
  THD_BOX = 4,
  THD_HAMMING = 5
} thd_filter;

typedef struct thd_jpeg_decode_options {
  int64_t max_pixels;  /* checked on the header, before memory for the picture is taken; 0: no limit */
  int32_t orientation; /* 1 to 8 as EXIF numbers them, 1 being upright; or THD_ORIENTATION_EXIF */
  int32_t
      scaled; /* 1 decodes a picture that is at least twice as large as asked for at 1/2, 1/4 or 1/8 of its size
                        * before it is resized, which is several times faster and changes its values; else 0 */
  thd_filter filter;
  int32_t gray; /* 1 makes a grey picture RGB with equal channels; 0 refuses it */
} thd_jpeg_decode_options;

/* Decodes a JPEG (baseline or progressive; CMYK turned into RGB) to RGB, turns it by the orientation and resizes the
 * turned picture to width x height (see thd_resize).
 *
 * data, options: borrowed. pixels: borrowed, width*height*3 bytes.
 * Errors: BAD_PICTURE, TOO_MANY_PIXELS, NOT_RGB, OUT_OF_MEMORY. From any thread; starts no thread. */
thd_error* thd_jpeg_decode(const uint8_t* data, size_t size, const thd_jpeg_decode_options* options,
                           int32_t width, int32_t height, uint8_t* pixels);

/* Turns and resizes RGB pixels. source: source_width*source_height*source_channels bytes, where
 * source_channels is 3 or 4 and a fourth channel is left out; borrowed. orientation: 1 to 8.
 * pixels: width*height*3 bytes; borrowed; must not overlap source. From any thread; starts no thread.
 *
 * The values are those of Pillow 13's Image.resize(size, filter): the filters but THD_NEAREST grow with the scale when
 * shrinking (antialiasing); weights are rounded to 22 bits after the point, and each of the two passes rounds to uint8. */
thd_error* thd_resize(const uint8_t* source, int32_t source_width, int32_t source_height,
                      int32_t source_channels, int32_t orientation, thd_filter filter, int32_t width,
                      int32_t height, uint8_t* pixels);

/* The most bytes that thd_jpeg_encode can write for a picture of that size; 0 for sizes that JPEG doesn't
 * have (below 1 or above 65500). */
size_t thd_jpeg_bound(int32_t width, int32_t height, int32_t channels);

/* Encodes height*width*channels bytes (channels: 1 grey, 3 RGB) as a baseline JPEG with 4:2:0 subsampling
 * and the standard tables at quality (1 to 100). pixels: borrowed. out: borrowed, capacity bytes.
 * *written: bytes written. Errors: INVALID_ARGUMENT when the capacity doesn't suffice. From any thread. */
thd_error* thd_jpeg_encode(const uint8_t* pixels, int32_t width, int32_t height, int32_t channels,
                           int32_t quality, uint8_t* out, size_t capacity, size_t* written);

#ifdef __GNUC__
#pragma GCC visibility pop
#endif

#ifdef __cplusplus
}
#endif

#endif /* TORCHHERD_H */
