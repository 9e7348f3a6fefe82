// Nothing: libtorch.so is a name (see CMakeLists.txt).
