/*
 * torchherd.h: the C API of libtorchherd.
 *
 * LibTorch has a C++ interface (templates, exceptions, an ABI that depends on the compiler), and libjpeg-turbo
 * reports errors by longjmp. Go can call neither. This header declares the functions that make both callable:
 *
 *     Go: torch/  ->  torchherd.h  ->  csrc/src/  ->  LibTorch, libjpeg-turbo
 *
 * Rules for every function:
 *
 *  - Errors. A function that can fail returns a thd_error*. NULL means success. Any other error is owned by the
 *    caller, who reads its code and message and frees it with thd_error_free. There is no last-error state, so an
 *    error may be read on any thread. No C++ exception and no longjmp leaves the library. A function that fails
 *    doesn't change its out parameters.
 *  - Pointers. "borrowed": valid during the call only; the library keeps no pointer to the caller's memory. "owned":
 *    ownership passes to the receiver. A pointer must not be NULL unless the comment allows it; otherwise the error
 *    is THD_ERROR_INVALID_ARGUMENT.
 *  - Threads. Functions may run at the same time on different handles. Calls on one handle must not overlap unless
 *    the comment allows it. LibTorch keeps state per thread (thread pools, caches), so a module runs fastest when
 *    one thread makes all its calls.
 *  - Pixels are uint8, in rows from top to bottom, with interleaved channels (HWC) and no padding between rows.
 *  - Structs. Every struct that the caller allocates begins with struct_size, which the caller sets to the sizeof of
 *    the struct, also before the library fills it. Later versions only append fields. The library accepts the
 *    smaller struct of an older caller: an input field beyond its end is zero, which is its default, and an output
 *    field beyond its end is not written. The library refuses a size that no header has with
 *    THD_ERROR_INVALID_ARGUMENT. Fields marked "required" have no default.
 *
 * Why structs with a size, and not opaque options with setters: a caller in Go fills a struct on its own stack and
 * crosses into C once. Each setter would be another crossing, and each options object an allocation, for every image.
 *
 * Versions: call thd_api_version first. The library is compatible if its major version equals
 * THD_API_VERSION_MAJOR and its minor version is at least THD_API_VERSION_MINOR.
 */
#ifndef TORCHHERD_H
#define TORCHHERD_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The library is built with hidden visibility; only what this header declares is exported. */
#ifdef __GNUC__
#pragma GCC visibility push(default)
#endif

/* The major version changes when a caller that was compiled against an older header may break. The minor version
 * changes when functions, enum values or struct fields are added. An added field begins at or after the sizeof of
 * the struct before it, so that it never overlaps an older caller's padding. */
#define THD_API_VERSION_MAJOR 2
#define THD_API_VERSION_MINOR 1

/* ---- errors ---- */

typedef enum thd_code {
  THD_OK = 0,
  /* The caller broke a rule of this header, such as a NULL, a size below 1 or a count that doesn't match. */
  THD_ERROR_INVALID_ARGUMENT = 1,
  /* The file doesn't exist or can't be read. */
  THD_ERROR_NOT_FOUND = 2,
  /* The file exists but isn't a module or package that this LibTorch can load. */
  THD_ERROR_NOT_A_MODULE = 3,
  /* The device's name is unknown, or this machine or this LibTorch doesn't have the device. */
  THD_ERROR_DEVICE = 4,
  /* The module failed while it ran: unsupported shape or dtype, or an exception of its own. */
  THD_ERROR_FORWARD = 5,
  /* The module ran, but its output can't be used: not a tensor, wrong count, wrong shape. */
  THD_ERROR_OUTPUT = 6,
  THD_ERROR_OUT_OF_MEMORY = 7,
  /* The image can't be decoded: corrupt, truncated or of an unknown format. */
  THD_ERROR_BAD_IMAGE = 8,
  /* The image has more pixels than the caller's limit. */
  THD_ERROR_TOO_MANY_PIXELS = 9,
  /* The image has fewer than three color channels. */
  THD_ERROR_NOT_RGB = 10,
  /* Anything else: a defect of this library or of a library below it. */
  THD_ERROR_INTERNAL = 11,
  /* The image needs more work than the caller's limit. */
  THD_ERROR_TOO_MUCH_WORK = 12,
  /* The caller ended the call. */
  THD_ERROR_CANCELLED = 13,
  /* The file exists but isn't a library of operators that this LibTorch can load. Since 1.2. */
  THD_ERROR_LIBRARY = 14
} thd_code;

typedef struct thd_error thd_error;

thd_code thd_error_code(const thd_error* error);
/* Returns UTF-8, one or more lines, without a trailing newline. Borrowed from the error, valid until it is freed. */
const char* thd_error_message(const thd_error* error);
/* error: owned; NULL does nothing. From any thread. */
void thd_error_free(thd_error* error);

/* ---- versions, threads, devices ---- */

/* Returns the API version of the library. Every version has this function. major, minor: NULL for a number that the
 * caller doesn't need. From any thread. */
void thd_api_version(uint32_t* major, uint32_t* minor);

/* The versions of the libraries that this one was built against, such as "2.15.0". Static strings. From any thread. */
const char* thd_libtorch_version(void);
const char* thd_libjpeg_version(void);

/* Sets the number of threads that one forward may use (LibTorch's intra-op threads), for all modules. threads: at
 * least 1. Call it before the first forward. */
thd_error* thd_set_num_threads(int32_t threads);
int32_t thd_num_threads(void);

/* Ends the threads that LibTorch has started for forwards of the calling thread; its next forward starts them again, in
 * about 0.1 ms. While more such threads exist than cores, even if they are idle, OpenMP takes the cores for overloaded:
 * threads that wait for each other in a forward sleep at once. Call it when the thread has no forward for a while. It
 * does nothing where LibTorch's OpenMP is older than version 5.0. */
void thd_release_threads(void);

/* Returns free memory of the C allocator to the system, where the allocator keeps some (glibc). A freed module leaves
 * its memory there. Takes milliseconds, during which other threads can't allocate. */
void thd_release_memory(void);

/* Checks that a device ("cpu", "cuda", "cuda:1") can be used; the message of THD_ERROR_DEVICE names what is missing.
 * The first call for a CUDA device loads LibTorch's CUDA library, so a process that uses only the CPU needs none of
 * CUDA's libraries. That call must come before any module is loaded: LibTorch looks for its CUDA library only once.
 * device: borrowed. */
thd_error* thd_device_check(const char* device);

/* *out: the compute capability of a CUDA device, ten times its major number plus its minor number, such as 90. It is 0
 * for the CPU, and where the driver doesn't report it. device: borrowed. Errors: DEVICE. */
thd_error* thd_device_capability(const char* device, int32_t* out);

/* Loads a shared library whose initialization registers operators with LibTorch, as torchvision's does. Modules that use
 * the operators can be loaded from then on. The library stays loaded; a second call for it does nothing. Call it after the
 * first thd_device_check for a CUDA device. A library that was built for CUDA also loads LibTorch's CUDA library, if that
 * is there. The file must be complete: the dynamic linker crashes on a truncated one. path: borrowed.
 * Errors: NOT_FOUND; LIBRARY, also for a library of another LibTorch; OUT_OF_MEMORY. Since 1.2. */
thd_error* thd_load_operators(const char* path);

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

/* A dense tensor in host memory, contiguous in C order. */
typedef struct thd_tensor_view {
  size_t struct_size; /* sizeof(thd_tensor_view) */
  thd_dtype dtype;    /* required, as all fields of a view */
  int32_t dims;       /* 0 to THD_MAX_DIMS */
  int64_t shape[THD_MAX_DIMS];
  void* data; /* product(shape) elements, borrowed from the owner of the view's memory; NULL if there is none */
} thd_tensor_view;

/* ---- modules ---- */

/* A model on one device: a TorchScript module in evaluation mode with frozen weights, or an AOTInductor package. */
typedef struct thd_module thd_module;

/* The number format in which a TorchScript module computes. Its input and output stay float32. */
typedef enum thd_precision {
  THD_FP32 = 0, /* float32; on CUDA without TF32 */
  THD_TF32 = 1, /* CUDA only: float32 with the factors of products rounded to 10 fraction bits */
  THD_BF16 = 2, /* convolutions and matrix products in bfloat16, by LibTorch's autocast */
  THD_FP16 = 3  /* CUDA only: convolutions and matrix products in float16, by LibTorch's autocast */
} thd_precision;

/* The channels of a module's input tensor, in their order. */
typedef enum thd_channels {
  THD_RGB = 0,
  THD_BGR = 1,      /* an output of three channels has this order too */
  THD_GRAY = 2,     /* one channel: (19595 R + 38470 G + 7471 B + 32768) >> 16, as in Pillow's convert("L") */
  THD_LIGHTNESS = 3 /* one channel: L of CIE Lab (sRGB, D65) divided by 100 */
} thd_channels;

/* What a module's output is, and which bytes thd_result_read_images makes of it. Since 1.2. */
typedef enum thd_kind {
  THD_IMAGE = 0, /* 1, 3 or 4 channels: gray, color, or color with alpha; as many bytes a pixel */
  THD_MASK = 1,  /* one channel; one byte a pixel */
  THD_CLASSES =
      2, /* one channel of class numbers, or one channel of scores for each of up to 256 classes; one byte a
                      pixel, the class number; of equal scores the first counts */
  THD_DEPTH =
      3, /* one channel; one byte a pixel: 0 for the least finite value of the image, 255 for the greatest */
  THD_CHROMA =
      4 /* two channels, a and b of CIE Lab; four bytes a pixel: a and b as little-endian int16 in units of
                      1/256 */
} thd_kind;

/* A function of the output, before anything else. Since 1.2. */
typedef enum thd_activation {
  THD_NO_ACTIVATION = 0,
  THD_SIGMOID = 1,
  THD_SOFTMAX = 2 /* over the channels; of THD_MASK, which may then have several, the last is used */
} thd_activation;

/* The order of an output's dimensions. Since 1.2. */
typedef enum thd_layout {
  THD_LAYOUT_AUTO =
      0, /* channels first, unless only as the last dimension they have a number that the kind allows */
  THD_NCHW = 1,
  THD_NHWC = 2
} thd_layout;

/* How values become bytes. Since 1.2. */
typedef enum thd_rounding {
  THD_ROUND_DOWN = 0,   /* as torchvision's to_pil_image */
  THD_ROUND_NEAREST = 1 /* halves up, as torchvision's save_image */
} thd_rounding;

/* The meaning of the values in a module's tensors.
 *
 * Input: the byte v becomes (x - mean[c]) / std[c], where x = input_low + v/255 * (input_high - input_low) and c is the
 * channel of the input tensor. Output: activation, then y * output_std[c] + output_mean[c], then the value becomes
 * (y - output_low) / (output_high - output_low), in 0..1. An alpha channel has no output_mean and output_std. A THD_CHROMA
 * has no range. THD_CLASSES has neither, and no activation. A uint8 output of THD_IMAGE or THD_MASK is bytes already,
 * unless there is an activation; other integers are values, and a bool is 0 or 1.
 *
 * All numbers must be finite, low and high of a range must differ, and std must be positive. The fields up to output_high
 * are required. */
typedef struct thd_values {
  size_t struct_size; /* sizeof(thd_values) */
  thd_channels channels;
  float input_low, input_high;
  float mean[3], std[3]; /* for one channel only the first is used */
  float output_low, output_high;
  int32_t reserved; /* the padding of version 1.1; ignored */
  /* since 1.2 */
  thd_kind kind;
  thd_activation activation;
  thd_layout layout;
  thd_rounding rounding;
  float output_mean[3];
  float output_std[3]; /* 0: 1 */
} thd_values;

/* What a parameter of forward gets. */
typedef enum thd_input_kind {
  THD_INPUT_BATCH = 0,    /* the images of the batch */
  THD_INPUT_IMAGE = 1,    /* a further image for each item, such as a mask */
  THD_INPUT_NUMBER = 2,   /* a number for each item */
  THD_INPUT_CONSTANT = 3, /* the same in every batch */
  THD_INPUT_NONE = 4      /* None, for a parameter that is Optional */
} thd_input_kind;

/* A parameter of a module's forward. */
typedef struct thd_input {
  size_t struct_size;       /* sizeof(thd_input) */
  thd_input_kind kind;      /* required, as values of an IMAGE, dims, and numbers of a CONSTANT */
  int32_t integer;          /* of a NUMBER or CONSTANT. 1: the elements of its tensor are int64; else 0 */
  const thd_values* values; /* of an IMAGE; its output_low and output_high have no effect; borrowed */
  /* Of an IMAGE: if it is above 0, channels of at least this value, in 0..1, become 1 and all others 0, before the
   * range, mean and std of values are applied. */
  float threshold;
  /* Of a NUMBER or CONSTANT: -1 for a plain number, which TorchScript gets as the float, int or bool that it declares,
   * and else the number of dimensions of a tensor, 0 to THD_MAX_DIMS. */
  int32_t dims;
  /* The sizes of the dimensions. -1 stands for the number of items, at most once: the elements of a CONSTANT are then
   * repeated for each item, and a NUMBER has its own value for each. All other dimensions of a NUMBER are 1. */
  int64_t shape[THD_MAX_DIMS];
  const double* numbers; /* of a CONSTANT: the product of the sizes other than -1, in C order; borrowed */
} thd_input;

typedef struct thd_load_options {
  size_t struct_size;       /* sizeof(thd_load_options) */
  const char* device;       /* required: "cpu", "cuda", "cuda:1"; borrowed */
  const thd_values* values; /* of images; borrowed; NULL: RGB in 0..1, and an output in 0..1 */
  thd_precision precision;  /* must be THD_FP32 for a package, which computes as it was compiled */
  int32_t graphs; /* 1: replay each batch shape as a CUDA graph once it has warmed up (CUDA only); else 0 */
  /* Which tensor of the module's output to use, since 1.2: keys of dicts and indices of tuples and lists from 0, separated
   * by slashes, such as "out" or "aux/1"; borrowed. NULL or empty: the only one. */
  const char* output;
  /* The parameters of forward since 1.2, in their order: an array whose elements are as far apart as the struct_size of the first
   * says, exactly one of them a THD_INPUT_BATCH. NULL: the images alone. borrowed. graphs must be 0 if an IMAGE or a
   * NUMBER is among them. */
  const thd_input* inputs;
  int32_t input_count;
} thd_load_options;

/* Loads a TorchScript file onto a device. file: a descriptor that is open for reading; borrowed. Its position is
 * neither used nor changed, so several loads may use the descriptor at the same time. name: the name of the file in
 * messages. name, options: borrowed. *out: owned, freed by thd_module_free.
 * Errors: NOT_A_MODULE, also for a file that is truncated during the load; DEVICE; OUT_OF_MEMORY; INVALID_ARGUMENT,
 * also for options that the device doesn't support and for a descriptor that isn't open. */
thd_error* thd_module_load(int32_t file, const char* name, const thd_load_options* options, thd_module** out);
/* Loads the content of a TorchScript file from memory. data: borrowed. Otherwise as thd_module_load. */
thd_error* thd_module_load_memory(const void* data, size_t size, const thd_load_options* options,
                                  thd_module** out);
/* Loads an AOTInductor package that the caller has unpacked. library: the path of its shared object. directory: where
 * its other files are. Both are borrowed. The files may be removed when this function returns (CPU) or when the module
 * is freed (CUDA). A package runs only on the kind of device, and with the dtype and the shapes of input, for which it
 * was compiled; other input is a FORWARD error. Errors: as thd_module_load; NOT_FOUND for the shared object. */
thd_error* thd_module_load_package(const char* library, const char* directory, const thd_load_options* options,
                                   thd_module** out);
/* module: owned; NULL does nothing. */
void thd_module_free(thd_module* module);

typedef struct thd_module_info {
  size_t struct_size; /* sizeof(thd_module_info) */
  /* The parameters of forward as the module declares them, one "name: type" per line. TorchScript declares "Tensor",
   * never a shape. Borrowed from the module, valid until it is freed. */
  const char* inputs;
  int64_t parameters; /* the number of elements in all parameters and buffers */
  int64_t bytes;      /* their size in memory, in the type in which the module computes with them */
} thd_module_info;

/* Fills *out. From any thread. */
thd_error* thd_module_describe(const thd_module* module, thd_module_info* out);

/* The output of one batch, in the library's memory. */
typedef struct thd_result thd_result;

/* Runs the module on a tensor whose first dimension is the batch, with at least one item. input: borrowed.
 * *out: owned, freed by thd_result_free. *view describes the output; its data is borrowed from the result.
 * Errors: FORWARD; OUTPUT if the output isn't one tensor and the options choose none, or if the tensor has a dtype without a
 * thd_dtype; OUT_OF_MEMORY. */
thd_error* thd_module_forward(thd_module* module, const thd_tensor_view* input, thd_result** out,
                              thd_tensor_view* view);

/* Runs the module on one RGB image as thd_module_forward_images does, and checks that every value of the output is
 * finite. A TorchScript module is loaded with its weights frozen and runs faster so. The first call also runs the module as
 * the file has it, and from then on it isn't frozen if its output was different; the memory of the other form is freed. So
 * call it before the first batch. image: height*width*3 bytes, borrowed.
 * Errors: as thd_module_forward_images; OUTPUT also if a value is NaN or infinite. */
thd_error* thd_module_check_finite(thd_module* module, const uint8_t* image, int32_t height, int32_t width);

/* Runs the module on a batch of RGB images of one size. It stacks the images in their order, converts them to float32
 * NCHW by the module's thd_values, converts that to the floating point type of the module's weights if it takes no other
 * (found in its first run), runs the module, and keeps the output for thd_result_read_images. On CUDA it returns
 * when the work is queued, so the caller can submit the next batch while this one runs.
 *
 * images: count pointers to height*width*3 bytes each; borrowed. *out: owned, freed by thd_result_free. *view: the
 * shape of the output {count, bytes a pixel, height, width}, with dtype uint8 (as it will be read) and data NULL.
 * Errors: FORWARD; OUTPUT if the output isn't a tensor {count, channels, height, width} with as many channels as its kind
 * allows; OUT_OF_MEMORY. The channels may be the last dimension (thd_layout). An output of one channel may lack their
 * dimension, and that of a batch of one image may lack the batch's. */
thd_error* thd_module_forward_images(thd_module* module, const uint8_t* const* images, int32_t count,
                                     int32_t height, int32_t width, thd_result** out, thd_tensor_view* view);

/* The further inputs of a batch of count images, for a module whose thd_load_options name some. Each array is in the
 * order of those inputs, and may be NULL if there are none of its kind. All are borrowed. */
typedef struct thd_parts {
  size_t struct_size; /* sizeof(thd_parts) */
  /* For the k-th THD_INPUT_IMAGE, images[k * count + i] belongs to item i. It has sizes[2 * k] rows of sizes[2 * k + 1]
   * RGB pixels. */
  const uint8_t* const* images;
  const int32_t* sizes;
  /* For the k-th THD_INPUT_NUMBER, numbers[k * count + i] belongs to item i. They must be equal in a batch if the
   * input's shape has no -1. */
  const double* numbers;
  int32_t image_inputs; /* the number of IMAGEs and of NUMBERs, which must be the module's */
  int32_t number_inputs;
} thd_parts;

/* Is thd_module_forward_images with the module's further inputs. parts: borrowed. Errors: as there. */
thd_error* thd_module_forward_parts(thd_module* module, const uint8_t* const* images, int32_t count,
                                    int32_t height, int32_t width, const thd_parts* parts, thd_result** out,
                                    thd_tensor_view* view);

/* Is thd_module_check_finite with the module's further inputs, for one item. parts: borrowed. Errors: as there. */
thd_error* thd_module_check_parts_finite(thd_module* module, const uint8_t* image, int32_t height,
                                         int32_t width, const thd_parts* parts);

/* Waits for the output of thd_module_forward_images and writes image i to images[i], as height*width*channels bytes,
 * where channels is the view's: the bytes that the module's thd_kind says. The module's thd_values bring images, masks
 * and depths to 0..1; they are clamped (NaN becomes 0), multiplied by 255 and rounded. images: count pointers,
 * borrowed; count must equal the batch's. From any thread, also while the module
 * runs another batch. Errors: FORWARD if the work fails on the CUDA device. */
thd_error* thd_result_read_images(const thd_result* result, uint8_t* const* images, int32_t count);

/* result: owned; NULL does nothing. */
void thd_result_free(thd_result* result);

/* ---- images ---- */

typedef struct thd_jpeg_info {
  size_t struct_size; /* sizeof(thd_jpeg_info) */
  int32_t width;      /* as stored, before the orientation is applied */
  int32_t height;     /* as stored */
  int32_t channels;   /* 1 gray, 3 color, 4 CMYK */
  int64_t blocks;     /* 8x8 blocks of all components, padding included */
  int64_t memory;     /* bytes that thd_jpeg_decode allocates at most beside those of the resize */
  int32_t buffered;   /* 1: all scans are decoded before the first pixel, as in a progressive file; else 0 */
  int32_t arithmetic; /* 1: arithmetic coding; 0: Huffman coding */
} thd_jpeg_info;

/* Reads a JPEG's header. data: borrowed. Errors: BAD_IMAGE. From any thread. */
thd_error* thd_jpeg_read_header(const uint8_t* data, size_t size, thd_jpeg_info* out);

/* Pillow's filters for resizing. */
typedef enum thd_filter {
  THD_NEAREST = 0,
  THD_LANCZOS = 1, /* three lobes */
  THD_BILINEAR = 2,
  THD_BICUBIC = 3, /* a = -0.5 */
  THD_BOX = 4,
  THD_HAMMING = 5
} thd_filter;

typedef struct thd_jpeg_decode_options {
  size_t struct_size;  /* sizeof(thd_jpeg_decode_options) */
  int64_t max_pixels;  /* limit of width*height, checked before the image's memory is allocated; 0: no limit */
  int32_t orientation; /* an EXIF orientation, 1 (upright) to 8; 0: upright. The file's own isn't read */
  /* 1: decode an image that is at least twice the requested size at 1/2, 1/4 or 1/8 of its size before it is resized.
   * That is several times faster and changes the pixels. Else 0. */
  int32_t scaled;
  thd_filter filter;
  int32_t gray; /* 1: convert a gray image to RGB with equal channels; 0: refuse it */
  /* Decoding ends with CANCELLED within milliseconds after another thread has set *cancel to a value other than 0.
   * NULL: nothing ends it. Borrowed. */
  const volatile int32_t* cancel;
  /* Limit of the blocks that all scans together decode, where each scan counts THD_JPEG_SCAN_BLOCKS blocks more.
   * 0: no limit. */
  int64_t max_blocks;
  /* If the JPEG has four components, they aren't converted: pixels gets cyan, magenta and yellow, and black, of
   * width*height*3 bytes, gets black three times; 255 is no ink. NULL: they are converted to RGB. Borrowed. */
  uint8_t* black;
} thd_jpeg_decode_options;

/* What reading a scan's header and tables costs, in blocks. */
#define THD_JPEG_SCAN_BLOCKS 16

/* Decodes a JPEG (baseline or progressive; CMYK is converted) to RGB, applies the orientation, and resizes the oriented
 * image to width x height (see thd_resize). data, options: borrowed. pixels: borrowed, width*height*3 bytes.
 * Errors: BAD_IMAGE, TOO_MANY_PIXELS, NOT_RGB, TOO_MUCH_WORK, CANCELLED, OUT_OF_MEMORY. From any thread; starts no
 * thread. */
thd_error* thd_jpeg_decode(const uint8_t* data, size_t size, const thd_jpeg_decode_options* options,
                           int32_t width, int32_t height, uint8_t* pixels);

/* Applies an orientation to RGB pixels and resizes the oriented image. source: source_width*source_height*
 * source_channels bytes, borrowed; source_channels is 3 or 4, and the fourth channel is ignored. orientation: 1 to 8.
 * pixels: width*height*3 bytes, borrowed; must not overlap source. From any thread; starts no thread.
 *
 * The result equals Image.resize(size, filter) of Pillow 13. Every filter except THD_NEAREST is widened when the image
 * shrinks (antialiasing); weights have 22 fraction bits, and each of the two passes rounds to uint8. */
thd_error* thd_resize(const uint8_t* source, int32_t source_width, int32_t source_height,
                      int32_t source_channels, int32_t orientation, thd_filter filter, int32_t width,
                      int32_t height, uint8_t* pixels);

/* What a resize needs. The numbers are upper bounds, and grow with the size of the source. */
typedef struct thd_resize_cost {
  size_t struct_size; /* sizeof(thd_resize_cost) */
  int64_t memory;     /* bytes allocated, without the pixels of source and target */
  int64_t weights;    /* weights computed before the first row */
  int64_t products;   /* products of a weight and a pixel, for the whole image */
  int64_t step;       /* of those the ones of four rows of the source, which nothing interrupts */
} thd_resize_cost;

/* *out: the cost of a resize with these arguments, which are those of thd_resize. From any thread. */
thd_error* thd_resize_estimate(int32_t source_width, int32_t source_height, int32_t orientation,
                               thd_filter filter, int32_t width, int32_t height, thd_resize_cost* out);

/* A resize that takes the rows of its source in pieces, so that the caller can stop between two of them and the whole
 * source needn't be in memory. Calls on one handle must not overlap. */
typedef struct thd_resizer thd_resizer;

/* *out: owned, to be freed with thd_resizer_free. The other arguments are those of thd_resize. From any thread. */
thd_error* thd_resizer_new(int32_t source_width, int32_t source_height, int32_t orientation, thd_filter filter,
                           int32_t width, int32_t height, thd_resizer** out);
/* Takes the next rows of the source. rows: count*source_width*channels bytes, borrowed; channels is 3 or 4, and the
 * fourth is ignored. pixels: width*height*3 bytes, borrowed, in each call those of the call before. They are complete
 * after the last row. Errors: INVALID_ARGUMENT, also for more rows than the source has. From any thread. */
thd_error* thd_resizer_push(thd_resizer* resizer, const uint8_t* rows, int32_t count, int32_t channels,
                            uint8_t* pixels);
/* resizer: owned; NULL does nothing. From any thread. */
void thd_resizer_free(thd_resizer* resizer);

/* Returns the largest number of bytes that thd_jpeg_encode writes for an image of this size, or 0 if JPEG doesn't
 * support it (a side below 1 or above 65500). From any thread. */
size_t thd_jpeg_bound(int32_t width, int32_t height, int32_t channels);

/* Encodes height*width*channels bytes (channels: 1 gray, 3 RGB) as a baseline JPEG with 4:2:0 subsampling and the
 * standard tables. quality: 1 to 100. pixels: borrowed. out: borrowed, capacity bytes. *written: the number of bytes
 * written. Errors: INVALID_ARGUMENT, also if the capacity is too small. From any thread. */
thd_error* thd_jpeg_encode(const uint8_t* pixels, int32_t width, int32_t height, int32_t channels,
                           int32_t quality, uint8_t* out, size_t capacity, size_t* written);

#ifdef __GNUC__
#pragma GCC visibility pop
#endif

#ifdef __cplusplus
}
#endif

#endif /* TORCHHERD_H */
