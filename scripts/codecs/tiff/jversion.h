// The version of libjpeg-turbo for JPEG inside of TIFF.
#define JVERSION "libjpeg-turbo 2.1.5"
#define JCOPYRIGHT1 ""
#define JCOPYRIGHT2 ""
#define JCOPYRIGHT_SHORT ""
#define JCOPYRIGHT ""
