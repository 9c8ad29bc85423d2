#define DYN__KERNELS dyn__kernels_avx512
#define DYN__KERNELS_ISA avx512
#include "tensor/kernels.h"
