#define OPJ_HAVE_INTTYPES_H 1
#define OPJ_HAVE_POSIX_MEMALIGN 1
#define OPJ_PACKAGE_VERSION "2.5.0"

// Work is counted in samples of coding passes. A code block costs as many beside its passes, and a
// sample of one of high throughput, a packet and a precinct. So much may be done, and so many samples are converted, between
// two questions whether to go on.
#define HOST_WORK_OF_BLOCK 256
#define HOST_WORK_OF_HT 4
#define HOST_WORK_OF_PACKET 64
#define HOST_WORK_OF_PRECINCT 256
#define HOST_WORK_AT_ONCE 65536
#define HOST_SAMPLES 65536
