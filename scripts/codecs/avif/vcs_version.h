// The version of dav1d.
#define DAV1D_VERSION "1.0.0"
