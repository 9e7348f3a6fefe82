// The version of the API of dav1d.
#define DAV1D_API_VERSION_MAJOR 6
#define DAV1D_API_VERSION_MINOR 7
#define DAV1D_API_VERSION_PATCH 0
