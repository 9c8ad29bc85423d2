#define DYN__KERNELS dyn__kernels_scalar
#define DYN__KERNELS_ISA scalar
#include "tensor/kernels.h"
