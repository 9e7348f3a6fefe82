// The configuration of libtiff for a module that only decodes.
#ifndef TIF_CONFIG_H
#define TIF_CONFIG_H

#include "tiffconf.h"

#define HAVE_ASSERT_H 1
#define HAVE_FCNTL_H 1
#define HAVE_STRINGS_H 1
#define HAVE_SYS_TYPES_H 1
#define HAVE_UNISTD_H 1
#define PACKAGE_NAME "libtiff"
#define PACKAGE_TARNAME "tiff"
#define SIZEOF_SIZE_T 4
#define STRIP_SIZE_DEFAULT 8192
#define TIFF_MAX_DIR_COUNT 16
#define TIFF_SSIZE_FORMAT PRId32

#endif
