/* Calls every function of torchherd.h from C: loads and runs modules, decodes and encodes images, and provokes each kind
 * of error. Arguments: the testdata directory, and two libraries of operators (operators.cc, unresolved.cc). */
#include "torchherd.h"

#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int failures = 0;

static void fail_at(int line, const char* what) {
  fprintf(stderr, "smoke.c:%d: %s\n", line, what);
  failures++;
}

#define EXPECT(condition) \
  do { \
    if (!(condition)) fail_at(__LINE__, #condition); \
  } while (0)

/* Expects a call to return an error with this code, or success for THD_OK. Prints the message of an unexpected error. */
static void expect_code(int line, thd_error* error, thd_code code) {
  if (thd_error_code(error) != code) {
    fprintf(stderr, "smoke.c:%d: got code %d, want %d: %s\n", line, (int)thd_error_code(error), (int)code,
            thd_error_message(error));
    failures++;
  } else if (code != THD_OK && thd_error_message(error)[0] == '\0') {
    fail_at(line, "the error has no message");
  }
  thd_error_free(error);
}

#define EXPECT_CODE(call, code) expect_code(__LINE__, call, code)
#define EXPECT_OK(call) expect_code(__LINE__, call, THD_OK)

static const char* directory;

static const char* file(const char* name) {
  static char path[4096];
  snprintf(path, sizeof path, "%s/%s", directory, name);
  return path;
}

/* Returns the file's content, which the caller frees. Exits if the file can't be read. */
static uint8_t* read_file(const char* name, size_t* size) {
  FILE* in = fopen(file(name), "rb");
  uint8_t* data = NULL;
  if (in != NULL && fseek(in, 0, SEEK_END) == 0) {
    const long end = ftell(in);
    if (end >= 0 && fseek(in, 0, SEEK_SET) == 0) {
      *size = (size_t)end;
      data = malloc(*size);
    }
    if (data != NULL && fread(data, 1, *size, in) != *size) {
      free(data);
      data = NULL;
    }
  }
  if (in != NULL) fclose(in);
  if (data == NULL) {
    fprintf(stderr, "smoke.c: can't read %s\n", file(name));
    exit(1);
  }
  return data;
}

static void test_versions(void) {
  uint32_t major = 0;
  uint32_t minor = 99;
  thd_api_version(&major, &minor);
  EXPECT(major == THD_API_VERSION_MAJOR && minor == THD_API_VERSION_MINOR);
  thd_api_version(NULL, NULL);
  EXPECT(thd_libtorch_version()[0] == '2');
  EXPECT(strlen(thd_libjpeg_version()) > 0);
  EXPECT_OK(thd_set_num_threads(2));
  EXPECT(thd_num_threads() == 2);
  EXPECT_CODE(thd_set_num_threads(0), THD_ERROR_INVALID_ARGUMENT);
}

/* Returns how many threads this process has. */
static int count_threads(void) {
  DIR* const tasks = opendir("/proc/self/task");
  int count = 0;
  if (tasks == NULL) return 0;
  for (const struct dirent* task = readdir(tasks); task != NULL; task = readdir(tasks))
    count += task->d_name[0] != '.';
  closedir(tasks);
  return count;
}

static void test_devices(void) {
  EXPECT_OK(thd_device_check("cpu"));
  EXPECT_CODE(thd_device_check("abacus"), THD_ERROR_DEVICE);
  EXPECT_CODE(thd_device_check("meta"), THD_ERROR_DEVICE);
  EXPECT_CODE(thd_device_check(NULL), THD_ERROR_INVALID_ARGUMENT);
  int32_t capability = -1;
  EXPECT_OK(thd_device_capability("cpu", &capability));
  EXPECT(capability == 0);
  EXPECT_CODE(thd_device_capability("abacus", &capability), THD_ERROR_DEVICE);
  EXPECT_CODE(thd_device_capability("cpu", NULL), THD_ERROR_INVALID_ARGUMENT);
}

static const thd_load_options on_cpu = {.struct_size = sizeof(thd_load_options), .device = "cpu"};

/* Loads a file of the testdata directory. */
static thd_error* load_file(const char* name, const thd_load_options* options, thd_module** out) {
  const int open_file = open(file(name), O_RDONLY);
  if (open_file < 0) {
    fprintf(stderr, "smoke.c: can't open %s\n", file(name));
    exit(1);
  }
  thd_error* error = thd_module_load(open_file, name, options, out);
  close(open_file);
  return error;
}

static void test_load_errors(void) {
  thd_module* module = NULL;
  EXPECT_CODE(load_file("modules/garbage.pt", &on_cpu, &module), THD_ERROR_NOT_A_MODULE);
  EXPECT_CODE(load_file("modules/truncated.pt", &on_cpu, &module), THD_ERROR_NOT_A_MODULE);
  EXPECT_CODE(load_file("modules/checkpoint.pth", &on_cpu, &module), THD_ERROR_NOT_A_MODULE);
  EXPECT_CODE(thd_module_load(-1, "no file", &on_cpu, &module), THD_ERROR_INVALID_ARGUMENT);
  EXPECT_CODE(thd_module_load(0, NULL, &on_cpu, &module), THD_ERROR_INVALID_ARGUMENT);
  EXPECT_CODE(thd_module_load_memory("nonsense", 8, &on_cpu, &module), THD_ERROR_NOT_A_MODULE);
  EXPECT_CODE(thd_module_load_package(file("absent.so"), directory, &on_cpu, &module), THD_ERROR_NOT_FOUND);
  EXPECT_CODE(thd_module_load_package(file("modules/garbage.pt"), directory, &on_cpu, &module),
              THD_ERROR_NOT_A_MODULE);

  const char* negate = "modules/negate.pt";
  EXPECT_CODE(load_file(negate, NULL, &module), THD_ERROR_INVALID_ARGUMENT);
  thd_load_options options = {.struct_size = sizeof options};
  EXPECT_CODE(load_file(negate, &options, &module), THD_ERROR_INVALID_ARGUMENT);
  options.device = "abacus";
  EXPECT_CODE(load_file(negate, &options, &module), THD_ERROR_DEVICE);
  options = on_cpu;
  options.precision = THD_FP16;
  EXPECT_CODE(load_file(negate, &options, &module), THD_ERROR_INVALID_ARGUMENT);
  options.precision = THD_BF16;
  EXPECT_CODE(thd_module_load_package(file(negate), directory, &options, &module), THD_ERROR_INVALID_ARGUMENT);
  options = on_cpu;
  options.graphs = 1;
  EXPECT_CODE(load_file(negate, &options, &module), THD_ERROR_INVALID_ARGUMENT);
  EXPECT(module == NULL);
  thd_module_free(NULL);
}

static thd_module* load(const char* name) {
  thd_module* module = NULL;
  EXPECT_OK(load_file(name, &on_cpu, &module));
  if (module == NULL) exit(1);
  return module;
}

/* A module that is loaded from memory equals the one from the file. */
static void test_load_memory(void) {
  size_t size = 0;
  uint8_t* content = read_file("modules/negate.pt", &size);
  thd_module* module = NULL;
  EXPECT_OK(thd_module_load_memory(content, size, &on_cpu, &module));
  free(content);
  const uint8_t image[3] = {0, 255, 255};
  EXPECT_OK(thd_module_check_finite(module, image, 1, 1));
  thd_module_free(module);
}

static void test_forward(void) {
  thd_module* module = load("modules/negate.pt");
  thd_module_info info = {.struct_size = sizeof info};
  EXPECT_OK(thd_module_describe(module, &info));
  EXPECT(strstr(info.inputs, "Tensor") != NULL && info.parameters == 0 && info.bytes == 0);

  float values[2 * 3] = {0, 0.25F, 0.5F, 0.75F, 1, 2};
  thd_tensor_view input = {
      .struct_size = sizeof input, .dtype = THD_FLOAT32, .dims = 4, .shape = {2, 3, 1, 1}, .data = values};
  thd_result* result = NULL;
  thd_tensor_view view = {.struct_size = sizeof view};
  EXPECT_OK(thd_module_forward(module, &input, &result, &view));
  EXPECT(view.dtype == THD_FLOAT32 && view.dims == 4 && view.shape[0] == 2 && view.shape[1] == 3);
  for (int i = 0; i < 6; i++) EXPECT(((const float*)view.data)[i] == 1 - values[i]);
  thd_result_free(result);

  input.shape[0] = 0;
  EXPECT_CODE(thd_module_forward(module, &input, &result, &view), THD_ERROR_INVALID_ARGUMENT);
  thd_module_free(module);

  module = load("modules/double.pt");
  input.shape[0] = 2;
  EXPECT_CODE(thd_module_forward(module, &input, &result, &view), THD_ERROR_FORWARD);
  thd_module_free(module);
}

/* A forward that is spread over threads starts one, which ends with thd_release_threads. */
static void test_release_threads(void) {
  enum { kValues = 3 * 512 * 512 };
  thd_module* module = load("modules/negate.pt");
  float* values = calloc(kValues, sizeof(float));
  if (values == NULL) exit(1);
  const thd_tensor_view input = {
      .struct_size = sizeof input, .dtype = THD_FLOAT32, .dims = 4, .shape = {1, 3, 512, 512}, .data = values};
  EXPECT_OK(thd_set_num_threads(2));
  for (int round = 0; round < 2; round++) {
    thd_result* result = NULL;
    thd_tensor_view view = {.struct_size = sizeof view};
    const int before = count_threads();
    EXPECT_OK(thd_module_forward(module, &input, &result, &view));
    thd_result_free(result);
    EXPECT(count_threads() == before + (before > 0));
    thd_release_threads();
    EXPECT(count_threads() == before);
  }
  thd_release_threads();
  free(values);
  thd_module_free(module);
}

/* The output of identity.pt is its input; it must stay valid when the caller's memory is freed. */
static void test_forward_keeps_no_input(void) {
  thd_module* module = load("modules/identity.pt");
  float* values = malloc(sizeof(float) * 3);
  if (values == NULL) exit(1);
  for (int i = 0; i < 3; i++) values[i] = (float)i;
  thd_tensor_view input = {
      .struct_size = sizeof input, .dtype = THD_FLOAT32, .dims = 4, .shape = {1, 3, 1, 1}, .data = values};
  thd_result* result = NULL;
  thd_tensor_view view = {.struct_size = sizeof view};
  EXPECT_OK(thd_module_forward(module, &input, &result, &view));
  free(values);
  for (int i = 0; i < 3; i++) EXPECT(((const float*)view.data)[i] == (float)i);
  thd_result_free(result);
  thd_module_free(module);
}

static void test_forward_images(void) {
  uint8_t first[2 * 2 * 3];
  uint8_t second[2 * 2 * 3];
  for (int i = 0; i < 12; i++) {
    first[i] = (uint8_t)(i * 20);
    second[i] = (uint8_t)(255 - i);
  }
  const uint8_t* images[2] = {first, second};
  uint8_t out_first[12];
  uint8_t out_second[12];
  uint8_t* outs[2] = {out_first, out_second};
  thd_result* result = NULL;
  thd_tensor_view view = {.struct_size = sizeof view};

  thd_module* module = load("modules/identity.pt");
  EXPECT_OK(thd_module_forward_images(module, images, 2, 2, 2, &result, &view));
  EXPECT(view.shape[0] == 2 && view.shape[1] == 3 && view.shape[2] == 2 && view.shape[3] == 2);
  EXPECT_OK(thd_result_read_images(result, outs, 2));
  EXPECT(memcmp(first, out_first, 12) == 0 && memcmp(second, out_second, 12) == 0);
  EXPECT_CODE(thd_result_read_images(result, outs, 1), THD_ERROR_INVALID_ARGUMENT);
  thd_result_free(result);
  EXPECT_CODE(thd_module_forward_images(module, images, 0, 2, 2, &result, &view), THD_ERROR_INVALID_ARGUMENT);
  thd_module_free(module);

  module = load("modules/nan.pt");
  EXPECT_CODE(thd_module_check_finite(module, first, 2, 2), THD_ERROR_OUTPUT);
  thd_module_free(module);
  module = load("modules/negate.pt");
  EXPECT_OK(thd_module_check_finite(module, first, 2, 2));
  EXPECT_CODE(thd_module_check_finite(module, NULL, 2, 2), THD_ERROR_INVALID_ARGUMENT);
  EXPECT_CODE(thd_module_check_finite(module, first, 0, 2), THD_ERROR_INVALID_ARGUMENT);
  thd_module_free(module);
  thd_release_memory();

  static const struct {
    const char* name;
    thd_code code;
  } cases[] = {
      {"modules/no_batch_two.pt", THD_ERROR_FORWARD}, {"modules/needs_four.pt", THD_ERROR_FORWARD},
      {"modules/two_channels.pt", THD_ERROR_OUTPUT},  {"modules/wrong_count.pt", THD_ERROR_OUTPUT},
      {"modules/not_a_tensor.pt", THD_ERROR_OUTPUT},
  };
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    module = load(cases[i].name);
    EXPECT_CODE(thd_module_forward_images(module, images, 2, 2, 2, &result, &view), cases[i].code);
    thd_module_free(module);
  }
}

/* The output of identity.pt shows its input. */
static void test_values(void) {
  const uint8_t rgb[3] = {255, 0, 51};
  const uint8_t* image = rgb;
  uint8_t out[3] = {0};
  uint8_t* outs = out;
  thd_values values = {.struct_size = sizeof values,
                       .channels = THD_BGR,
                       .input_low = 0,
                       .input_high = 1,
                       .mean = {0, 0, 0.5F},
                       .std = {1, 1, 0.5F},
                       .output_low = 0,
                       .output_high = 2};
  thd_load_options options = on_cpu;
  options.values = &values;
  thd_module* module = NULL;
  thd_result* result = NULL;
  thd_tensor_view view = {.struct_size = sizeof view};
  EXPECT_OK(load_file("modules/identity.pt", &options, &module));
  EXPECT_OK(thd_module_forward_images(module, &image, 1, 1, 1, &result, &view));
  EXPECT_OK(thd_result_read_images(result, &outs, 1));
  /* Red, the third channel of BGR, becomes (1 - 0.5) / 0.5, and the range of the output halves every value. */
  EXPECT(view.shape[1] == 3 && out[0] == 127 && out[1] == 0 && out[2] == 25);
  thd_result_free(result);
  thd_module_free(module);

  values.channels = THD_GRAY;
  values.output_high = 1;
  EXPECT_OK(load_file("modules/identity.pt", &options, &module));
  EXPECT_OK(thd_module_forward_images(module, &image, 1, 1, 1, &result, &view));
  EXPECT_OK(thd_result_read_images(result, &outs, 1));
  EXPECT(view.shape[1] == 1 && out[0] == (19595 * 255 + 7471 * 51 + 32768) >> 16);
  thd_result_free(result);
  thd_module_free(module);

  module = NULL;
  values.std[0] = 0;
  EXPECT_CODE(load_file("modules/identity.pt", &options, &module), THD_ERROR_INVALID_ARGUMENT);
  values.std[0] = 1;
  values.input_high = 0;
  EXPECT_CODE(load_file("modules/identity.pt", &options, &module), THD_ERROR_INVALID_ARGUMENT);
  EXPECT(module == NULL);
}

/* identity.pt returns its input, so each kind shows what becomes of known values. */
static void test_kinds(void) {
  const uint8_t rgb[2 * 3] = {255, 0, 51, 102, 153, 204}; /* 1, 0, 0.2 and 0.4, 0.6, 0.8 */
  const uint8_t* image = rgb;
  static const struct {
    thd_channels channels;
    thd_kind kind;
    thd_activation activation;
    thd_layout layout;
    thd_rounding rounding;
    float mean, std;
    const char* output;
    thd_code code;
    int channels_out;
    uint8_t expected[6];
  } cases[] = {
      {THD_RGB,
       THD_IMAGE,
       THD_NO_ACTIVATION,
       THD_NCHW,
       THD_ROUND_DOWN,
       0.1F,
       0.5F,
       "",
       THD_OK,
       3,
       {153, 25, 51, 76, 102, 127}},
      {THD_RGB,
       THD_IMAGE,
       THD_NO_ACTIVATION,
       THD_LAYOUT_AUTO,
       THD_ROUND_NEAREST,
       0.1F,
       0.5F,
       NULL,
       THD_OK,
       3,
       {153, 26, 51, 77, 102, 128}},
      {THD_RGB, THD_CLASSES, THD_NO_ACTIVATION, THD_LAYOUT_AUTO, THD_ROUND_DOWN, 0, 0, NULL, THD_OK, 1, {0, 2}},
      {THD_RGB, THD_MASK, THD_SOFTMAX, THD_LAYOUT_AUTO, THD_ROUND_DOWN, 0, 1, NULL, THD_OK, 1, {63, 102}},
      {THD_GRAY, THD_MASK, THD_SIGMOID, THD_LAYOUT_AUTO, THD_ROUND_DOWN, 0, 1, NULL, THD_OK, 1, {147, 162}},
      {THD_GRAY,
       THD_DEPTH,
       THD_NO_ACTIVATION,
       THD_LAYOUT_AUTO,
       THD_ROUND_DOWN,
       0,
       1,
       NULL,
       THD_OK,
       1,
       {0, 255}},
      {THD_LIGHTNESS,
       THD_IMAGE,
       THD_NO_ACTIVATION,
       THD_LAYOUT_AUTO,
       THD_ROUND_DOWN,
       0,
       1,
       NULL,
       THD_OK,
       1,
       {136, 157}},
      {THD_RGB, THD_CHROMA, THD_NO_ACTIVATION, THD_NCHW, THD_ROUND_DOWN, 0, 1, NULL, THD_ERROR_OUTPUT, 0, {0}},
      {THD_RGB, THD_IMAGE, THD_NO_ACTIVATION, THD_NHWC, THD_ROUND_DOWN, 0, 1, NULL, THD_ERROR_OUTPUT, 0, {0}},
      {THD_RGB,
       THD_IMAGE,
       THD_NO_ACTIVATION,
       THD_NCHW,
       THD_ROUND_DOWN,
       0,
       1,
       "out/1",
       THD_ERROR_OUTPUT,
       0,
       {0}},
  };
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    thd_values values = {.struct_size = sizeof values,
                         .channels = cases[i].channels,
                         .input_low = 0,
                         .input_high = 1,
                         .mean = {0, 0, 0},
                         .std = {1, 1, 1},
                         .output_low = 0,
                         .output_high = 1,
                         .kind = cases[i].kind,
                         .activation = cases[i].activation,
                         .layout = cases[i].layout,
                         .rounding = cases[i].rounding};
    for (int c = 0; c < 3; c++) {
      values.output_mean[c] = cases[i].mean;
      values.output_std[c] = cases[i].std;
    }
    thd_load_options options = on_cpu;
    options.values = &values;
    options.output = cases[i].output;
    thd_module* module = NULL;
    thd_result* result = NULL;
    thd_tensor_view view = {.struct_size = sizeof view};
    EXPECT_OK(load_file("modules/identity.pt", &options, &module));
    if (cases[i].code != THD_OK) {
      EXPECT_CODE(thd_module_forward_images(module, &image, 1, 1, 2, &result, &view), cases[i].code);
    } else {
      uint8_t out[6] = {0};
      uint8_t* outs = out;
      EXPECT_OK(thd_module_forward_images(module, &image, 1, 1, 2, &result, &view));
      EXPECT(view.shape[1] == cases[i].channels_out);
      EXPECT_OK(thd_result_read_images(result, &outs, 1));
      EXPECT(memcmp(out, cases[i].expected, sizeof out) == 0);
      thd_result_free(result);
    }
    thd_module_free(module);
  }

  /* The struct of version 1.1 ends at `kind`. */
  thd_values old = {.struct_size = offsetof(thd_values, kind),
                    .channels = THD_RGB,
                    .input_high = 1,
                    .std = {1, 1, 1},
                    .output_high = 1,
                    .kind = THD_CHROMA};
  thd_load_options options = on_cpu;
  options.values = &old;
  options.struct_size = offsetof(thd_load_options, output);
  options.output = "out/1";
  thd_module* module = NULL;
  EXPECT_OK(load_file("modules/identity.pt", &options, &module));
  uint8_t out[6];
  uint8_t* outs = out;
  thd_result* result = NULL;
  thd_tensor_view view = {.struct_size = sizeof view};
  EXPECT_OK(thd_module_forward_images(module, &image, 1, 1, 2, &result, &view));
  EXPECT_OK(thd_result_read_images(result, &outs, 1));
  EXPECT(memcmp(out, rgb, sizeof out) == 0);
  thd_result_free(result);
  thd_module_free(module);
}

/* Inputs that come from the caller, and a constant in the place of a further one, reach forward. */
static void test_parts(void) {
  const uint8_t pixel[3] = {10, 20, 30};
  const uint8_t* image = pixel;
  thd_values values = {
      .struct_size = sizeof values, .channels = THD_RGB, .input_high = 1, .std = {1, 1, 1}, .output_high = 1};
  thd_input inputs[2] = {{.struct_size = sizeof inputs[0], .kind = THD_INPUT_BATCH},
                         {.struct_size = sizeof inputs[0], .kind = THD_INPUT_IMAGE, .values = &values}};
  thd_load_options options = on_cpu;
  options.inputs = inputs;
  options.input_count = 2;
  thd_module* module = NULL;
  thd_result* result = NULL;
  thd_tensor_view view = {.struct_size = sizeof view};
  /* identity.pt takes one input, so forward refuses the second one. */
  EXPECT_OK(load_file("modules/identity.pt", &options, &module));
  const int32_t sizes[2] = {1, 1};
  thd_parts parts = {.struct_size = sizeof parts, .images = &image, .sizes = sizes, .image_inputs = 1};
  EXPECT_CODE(thd_module_forward_parts(module, &image, 1, 1, 1, &parts, &result, &view), THD_ERROR_FORWARD);
  EXPECT_CODE(thd_module_check_parts_finite(module, pixel, 1, 1, &parts), THD_ERROR_FORWARD);
  EXPECT_CODE(thd_module_forward_images(module, &image, 1, 1, 1, &result, &view), THD_ERROR_INVALID_ARGUMENT);
  parts.image_inputs = 2;
  EXPECT_CODE(thd_module_forward_parts(module, &image, 1, 1, 1, &parts, &result, &view),
              THD_ERROR_INVALID_ARGUMENT);
  thd_module_free(module);

  options.input_count = 1;
  EXPECT_OK(load_file("modules/identity.pt", &options, &module));
  EXPECT_OK(thd_module_forward_parts(module, &image, 1, 1, 1, NULL, &result, &view));
  thd_result_free(result);
  EXPECT_OK(thd_module_check_parts_finite(module, pixel, 1, 1, NULL));
  thd_module_free(module);

  module = NULL;
  inputs[0].kind = THD_INPUT_NONE;
  EXPECT_CODE(load_file("modules/identity.pt", &options, &module), THD_ERROR_INVALID_ARGUMENT);
  inputs[0] = (thd_input){.struct_size = 8};
  EXPECT_CODE(load_file("modules/identity.pt", &options, &module), THD_ERROR_INVALID_ARGUMENT);
  EXPECT(module == NULL);
}

/* Decoding ends when another thread sets the flag, and when the scans have more blocks than the limit. */
static void test_limits_of_jpeg(void) {
  size_t size = 0;
  uint8_t* jpeg = read_file("pictures/jpeg-progressive.jpg", &size);
  thd_jpeg_info info = {.struct_size = sizeof info};
  EXPECT_OK(thd_jpeg_read_header(jpeg, size, &info));
  EXPECT(info.buffered == 1 && info.arithmetic == 0);
  EXPECT(info.blocks * 64 >= (int64_t)info.width * info.height && info.memory > info.blocks * 128);
  uint8_t pixels[8 * 6 * 3];
  thd_jpeg_decode_options options = {.struct_size = sizeof options,
                                     .max_blocks = info.blocks + THD_JPEG_SCAN_BLOCKS};
  EXPECT_CODE(thd_jpeg_decode(jpeg, size, &options, 8, 6, pixels), THD_ERROR_TOO_MUCH_WORK);
  options.max_blocks = 0;
  volatile int32_t cancel = 1;
  options.cancel = &cancel;
  EXPECT_CODE(thd_jpeg_decode(jpeg, size, &options, 8, 6, pixels), THD_ERROR_CANCELLED);
  cancel = 0;
  EXPECT_OK(thd_jpeg_decode(jpeg, size, &options, 8, 6, pixels));
  free(jpeg);
}

/* A resizer that takes rows one by one gives the pixels of thd_resize. */
static void test_resizer(void) {
  uint8_t source[5 * 4 * 3];
  for (size_t i = 0; i < sizeof source; i++) source[i] = (uint8_t)(i * 37);
  uint8_t expected[3 * 7 * 3];
  uint8_t pixels[sizeof expected];
  EXPECT_OK(thd_resize(source, 5, 4, 3, 1, THD_BICUBIC, 3, 7, expected));
  thd_resizer* resizer = NULL;
  EXPECT_OK(thd_resizer_new(5, 4, 1, THD_BICUBIC, 3, 7, &resizer));
  for (size_t y = 0; y < 4; y++) EXPECT_OK(thd_resizer_push(resizer, source + y * 5 * 3, 1, 3, pixels));
  EXPECT(memcmp(pixels, expected, sizeof pixels) == 0);
  EXPECT_CODE(thd_resizer_push(resizer, source, 1, 3, pixels), THD_ERROR_INVALID_ARGUMENT);
  EXPECT_CODE(thd_resizer_push(resizer, NULL, 0, 3, pixels), THD_ERROR_INVALID_ARGUMENT);
  thd_resizer_free(resizer);
  thd_resizer_free(NULL);
  EXPECT_CODE(thd_resizer_new(5, 4, 0, THD_BICUBIC, 3, 7, &resizer), THD_ERROR_INVALID_ARGUMENT);
  EXPECT_CODE(thd_resizer_new(5, 4, 1, THD_BICUBIC, 3, 7, NULL), THD_ERROR_INVALID_ARGUMENT);
  thd_resize_cost cost = {.struct_size = sizeof cost};
  EXPECT_OK(thd_resize_estimate(5, 4, 1, THD_BICUBIC, 3, 7, &cost));
  EXPECT(cost.struct_size == sizeof cost && cost.memory > 0 && cost.weights > 0 && cost.products >= cost.step);
  cost.struct_size = sizeof(size_t);
  EXPECT_CODE(thd_resize_estimate(5, 4, 1, THD_BICUBIC, 3, 7, &cost), THD_ERROR_INVALID_ARGUMENT);
}

/* A gray JPEG is refused, or converted to RGB with equal channels. */
static void test_gray_jpeg(void) {
  size_t size = 0;
  uint8_t* jpeg = read_file("pictures/jpeg-gray.jpg", &size);
  uint8_t pixels[8 * 6 * 3];
  thd_jpeg_decode_options options = {.struct_size = sizeof options, .filter = THD_BOX};
  EXPECT_CODE(thd_jpeg_decode(jpeg, size, &options, 8, 6, pixels), THD_ERROR_NOT_RGB);
  options.gray = 1;
  EXPECT_OK(thd_jpeg_decode(jpeg, size, &options, 8, 6, pixels));
  for (size_t i = 0; i < sizeof pixels; i += 3) {
    EXPECT(pixels[i] == pixels[i + 1] && pixels[i] == pixels[i + 2]);
  }
  free(jpeg);
}

static void test_jpeg(void) {
  size_t size = 0;
  uint8_t* jpeg = read_file("pictures/jpeg-420.jpg", &size);
  thd_jpeg_info info = {.struct_size = sizeof info};
  EXPECT_OK(thd_jpeg_read_header(jpeg, size, &info));
  EXPECT(info.width > 228 && info.height > 100 && info.channels == 3);

  uint8_t* pixels = malloc((size_t)228 * 228 * 3);
  const size_t bound = thd_jpeg_bound(228, 228, 3);
  uint8_t* out = malloc(bound);
  if (pixels == NULL || out == NULL) exit(1);
  thd_jpeg_decode_options options = {.struct_size = sizeof options, .filter = THD_BILINEAR};
  EXPECT_OK(thd_jpeg_decode(jpeg, size, &options, 228, 228, pixels));
  size_t written = 0;
  EXPECT_OK(thd_jpeg_encode(pixels, 228, 228, 3, 75, out, bound, &written));
  EXPECT(written > 1000 && written < bound);
  EXPECT_OK(thd_jpeg_read_header(out, written, &info));
  EXPECT(info.width == 228 && info.height == 228);
  EXPECT_CODE(thd_jpeg_encode(pixels, 228, 228, 3, 75, out, 100, &written), THD_ERROR_INVALID_ARGUMENT);
  EXPECT_CODE(thd_jpeg_encode(pixels, 228, 228, 2, 75, out, bound, &written), THD_ERROR_INVALID_ARGUMENT);

  EXPECT_CODE(thd_jpeg_decode(jpeg, size, NULL, 228, 228, pixels), THD_ERROR_INVALID_ARGUMENT);
  options.max_pixels = 1000;
  EXPECT_CODE(thd_jpeg_decode(jpeg, size, &options, 228, 228, pixels), THD_ERROR_TOO_MANY_PIXELS);
  options.max_pixels = 0;
  options.orientation = 9;
  EXPECT_CODE(thd_jpeg_decode(jpeg, size, &options, 228, 228, pixels), THD_ERROR_INVALID_ARGUMENT);
  options.orientation = 1;
  options.filter = THD_BICUBIC;
  for (int percent = 0; percent < 100; percent++) {
    EXPECT_CODE(thd_jpeg_decode(jpeg, size * (size_t)percent / 100, &options, 228, 228, pixels),
                THD_ERROR_BAD_IMAGE);
  }
  free(jpeg);
  free(out);
  free(pixels);

  EXPECT(thd_jpeg_bound(0, 1, 3) == 0 && thd_jpeg_bound(65501, 1, 3) == 0 && thd_jpeg_bound(1, 1, 2) == 0);
}

/* Each orientation of a 2x1 image shows by where its first pixel goes. */
static void test_orientations(void) {
  const uint8_t source[2 * 4] = {10, 20, 30, 255, 40, 50, 60, 255};
  for (int orientation = 1; orientation <= 8; orientation++) {
    const int transposed = orientation >= 5;
    uint8_t pixels[2 * 3];
    EXPECT_OK(
        thd_resize(source, 2, 1, 4, orientation, THD_NEAREST, transposed ? 1 : 2, transposed ? 2 : 1, pixels));
    const int reversed = orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8;
    EXPECT(pixels[0] == (reversed ? 40 : 10) && pixels[3] == (reversed ? 10 : 40));
  }
  uint8_t pixel[3];
  EXPECT_CODE(thd_resize(source, 2, 1, 2, 1, THD_BILINEAR, 1, 1, pixel), THD_ERROR_INVALID_ARGUMENT);
  EXPECT_CODE(thd_resize(source, 2, 1, 4, 0, THD_BILINEAR, 1, 1, pixel), THD_ERROR_INVALID_ARGUMENT);
  EXPECT_CODE(thd_resize(NULL, 2, 1, 4, 1, THD_BILINEAR, 1, 1, pixel), THD_ERROR_INVALID_ARGUMENT);
}

/* The inks of a CMYK JPEG are returned as they are if there is memory for black. */
static void test_inks(void) {
  size_t size = 0;
  uint8_t* jpeg = read_file("pictures/jpeg-cmyk.jpg", &size);
  uint8_t cmy[8 * 6 * 3];
  uint8_t black[8 * 6 * 3];
  uint8_t rgb[8 * 6 * 3];
  thd_jpeg_decode_options options = {.struct_size = sizeof options, .filter = THD_BOX, .black = black};
  EXPECT_OK(thd_jpeg_decode(jpeg, size, &options, 8, 6, cmy));
  options.black = NULL;
  EXPECT_OK(thd_jpeg_decode(jpeg, size, &options, 8, 6, rgb));
  for (size_t i = 0; i < sizeof cmy; i++) {
    /* The product of the means is near the mean of the products. */
    const int product = cmy[i] * black[i] / 255;
    EXPECT(black[i] == black[i / 3 * 3] && product - rgb[i] <= 20 && rgb[i] - product <= 20);
  }
  free(jpeg);
}

/* A caller that was compiled against an older header has smaller structs. Here they end after the required fields. */
static void test_older_structs(void) {
  const struct {
    size_t struct_size;
    const char* device;
  } load_options = {.struct_size = sizeof load_options, .device = "cpu"};
  thd_module* module = NULL;
  EXPECT_OK(load_file("modules/identity.pt", (const thd_load_options*)&load_options, &module));
  const uint8_t pixel[3] = {1, 2, 255};
  const uint8_t* image = pixel;
  uint8_t out[3] = {0};
  uint8_t* outs = out;
  thd_result* result = NULL;
  thd_tensor_view view = {.struct_size = sizeof view};
  EXPECT_OK(thd_module_forward_images(module, &image, 1, 1, 1, &result, &view));
  EXPECT_OK(thd_result_read_images(result, &outs, 1));
  EXPECT(memcmp(out, pixel, sizeof pixel) == 0 && view.struct_size == sizeof view);
  thd_result_free(result);
  thd_module_free(module);

  size_t size = 0;
  uint8_t* jpeg = read_file("pictures/exif-6.jpg", &size);
  thd_jpeg_info current = {.struct_size = sizeof current};
  EXPECT_OK(thd_jpeg_read_header(jpeg, size, &current));
  EXPECT(current.channels == 3 && current.struct_size == sizeof current);
  struct {
    struct {
      size_t struct_size;
      int32_t width, height;
    } older;
    uint8_t behind[sizeof(thd_jpeg_info)];
  } info = {.older = {.struct_size = sizeof info.older}, .behind = {1, 2, 3}};
  EXPECT_OK(thd_jpeg_read_header(jpeg, size, (thd_jpeg_info*)&info.older));
  EXPECT(info.older.struct_size == sizeof info.older);
  EXPECT(info.older.width == current.width && info.older.height == current.height);
  EXPECT(info.behind[0] == 1 && info.behind[1] == 2 && info.behind[2] == 3);

  const struct {
    size_t struct_size;
    int64_t max_pixels;
  } limited = {.struct_size = sizeof limited, .max_pixels = 1};
  const size_t smallest = sizeof smallest;
  const thd_jpeg_decode_options defaults = {.struct_size = sizeof defaults};
  uint8_t pixels[4 * 4 * 3];
  uint8_t expected[sizeof pixels];
  EXPECT_CODE(thd_jpeg_decode(jpeg, size, (const thd_jpeg_decode_options*)&limited, 4, 4, pixels),
              THD_ERROR_TOO_MANY_PIXELS);
  EXPECT_OK(thd_jpeg_decode(jpeg, size, (const thd_jpeg_decode_options*)&smallest, 4, 4, pixels));
  EXPECT_OK(thd_jpeg_decode(jpeg, size, &defaults, 4, 4, expected));
  EXPECT(memcmp(pixels, expected, sizeof pixels) == 0);
  free(jpeg);
}

/* Sizes that no header has: below the required fields, above the library's, or not a multiple of the alignment. */
static const size_t wrong_sizes[] = {0, sizeof(size_t) - 1, sizeof(size_t) * 2 - 1, 4096, SIZE_MAX};

static void expect_size_refused(int line, thd_error* error) {
  if (strstr(thd_error_message(error), "struct_size is ") == NULL)
    fail_at(line, "the message doesn't name struct_size");
  expect_code(line, error, THD_ERROR_INVALID_ARGUMENT);
}

#define EXPECT_SIZE_REFUSED(call) expect_size_refused(__LINE__, call)

static void test_wrong_sizes_of_options(size_t wrong) {
  thd_module* module = NULL;
  thd_load_options options = on_cpu;
  options.struct_size = wrong;
  EXPECT_SIZE_REFUSED(load_file("modules/negate.pt", &options, &module));
  EXPECT_SIZE_REFUSED(thd_module_load_memory("nonsense", 8, &options, &module));
  EXPECT_SIZE_REFUSED(thd_module_load_package(file("modules/garbage.pt"), directory, &options, &module));
  const thd_values values = {.struct_size = wrong, .input_high = 1, .std = {1, 1, 1}, .output_high = 1};
  options = on_cpu;
  options.values = &values;
  EXPECT_SIZE_REFUSED(load_file("modules/negate.pt", &options, &module));
  EXPECT(module == NULL);
}

static void test_wrong_sizes_of_tensors(thd_module* module, size_t wrong) {
  thd_module_info info = {.struct_size = wrong};
  EXPECT_SIZE_REFUSED(thd_module_describe(module, &info));
  float values[3] = {0};
  thd_tensor_view input = {
      .struct_size = wrong, .dtype = THD_FLOAT32, .dims = 4, .shape = {1, 3, 1, 1}, .data = values};
  thd_tensor_view view = {.struct_size = sizeof view};
  thd_result* result = NULL;
  EXPECT_SIZE_REFUSED(thd_module_forward(module, &input, &result, &view));
  input.struct_size = sizeof input;
  view.struct_size = wrong;
  EXPECT_SIZE_REFUSED(thd_module_forward(module, &input, &result, &view));
  const uint8_t pixel[3] = {0};
  const uint8_t* image = pixel;
  EXPECT_SIZE_REFUSED(thd_module_forward_images(module, &image, 1, 1, 1, &result, &view));
  EXPECT(result == NULL);
}

static void test_wrong_sizes_of_jpeg(const uint8_t* jpeg, size_t size, size_t wrong) {
  thd_jpeg_info info = {.struct_size = wrong};
  EXPECT_SIZE_REFUSED(thd_jpeg_read_header(jpeg, size, &info));
  const thd_jpeg_decode_options options = {.struct_size = wrong, .filter = THD_BILINEAR};
  uint8_t pixel[3];
  EXPECT_SIZE_REFUSED(thd_jpeg_decode(jpeg, size, &options, 1, 1, pixel));
}

static void test_wrong_struct_sizes(void) {
  thd_module* module = load("modules/identity.pt");
  size_t size = 0;
  uint8_t* jpeg = read_file("pictures/jpeg-420.jpg", &size);
  for (size_t i = 0; i < sizeof wrong_sizes / sizeof wrong_sizes[0]; i++) {
    test_wrong_sizes_of_options(wrong_sizes[i]);
    test_wrong_sizes_of_tensors(module, wrong_sizes[i]);
    test_wrong_sizes_of_jpeg(jpeg, size, wrong_sizes[i]);
  }
  free(jpeg);
  thd_module_free(module);

  /* A newer caller's struct, which is one field larger. */
  struct {
    thd_load_options known;
    void* unknown;
  } newer = {.known = on_cpu};
  newer.known.struct_size = sizeof newer;
  module = NULL;
  EXPECT_SIZE_REFUSED(load_file("modules/negate.pt", &newer.known, &module));
  EXPECT(module == NULL);
}

/* operators, unresolved: the paths of libraries. */
static void test_operators(const char* operators, const char* unresolved) {
  EXPECT_OK(thd_load_operators(operators));
  EXPECT_OK(thd_load_operators(operators));
  EXPECT_CODE(thd_load_operators(unresolved), THD_ERROR_LIBRARY);
  EXPECT_CODE(thd_load_operators(file("modules/garbage.pt")), THD_ERROR_LIBRARY);
  EXPECT_CODE(thd_load_operators(file("modules/no-such-file")), THD_ERROR_NOT_FOUND);
  EXPECT_CODE(thd_load_operators(NULL), THD_ERROR_INVALID_ARGUMENT);
}

int main(int count, char** arguments) {
  if (count != 4) {
    fprintf(stderr, "usage: smoke TESTDATA OPERATORS UNRESOLVED\n");
    return 2;
  }
  directory = arguments[1];
  test_versions();
  test_devices();
  test_older_structs();
  test_wrong_struct_sizes();
  test_load_errors();
  test_load_memory();
  test_forward();
  test_release_threads();
  test_forward_keeps_no_input();
  test_forward_images();
  test_values();
  test_kinds();
  test_parts();
  test_jpeg();
  test_inks();
  test_gray_jpeg();
  test_limits_of_jpeg();
  test_resizer();
  test_orientations();
  test_operators(arguments[2], arguments[3]);
  if (failures == 0) printf("smoke: all passed\n");
  return failures == 0 ? 0 : 1;
}
