#define DYN__KERNELS dyn__kernels_avx2
#define DYN__KERNELS_ISA avx2
#include "tensor/kernels.h"
