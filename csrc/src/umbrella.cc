// Empty: only the name of the library, libtorch.so, is needed (see CMakeLists.txt).
