/* topology.c -- see dynamo/topology.h for the contract. hwloc does the work; its errors become ours here. */
#include <errno.h>
#include <hwloc.h>

#include "common/common.h"
#include "dynamo/topology.h"

struct dyn_topology {
    hwloc_topology_t hw;
    hwloc_bitmap_t usable; /* as it was at the start: a thread that is pinned later cannot tell any more */
};

int dyn_topology_new(dyn_topology **out)
{
    dyn_topology *self = dyn__calloc(1, sizeof(*self));
    if (self == NULL) return DYN_ENOMEM;
    if (hwloc_topology_init(&self->hw) < 0) {
        dyn__free(self);
        return DYN_ENOMEM;
    }
    /* Processors of others stay in the picture, so that `threads` is the machine's. */
    hwloc_topology_set_flags(self->hw, HWLOC_TOPOLOGY_FLAG_INCLUDE_DISALLOWED);
    hwloc_topology_set_io_types_filter(self->hw, HWLOC_TYPE_FILTER_KEEP_NONE); /* PCI is slow to read */
    if (hwloc_topology_load(self->hw) < 0) {
        dyn_topology_free(self);
        return dyn__fail(DYN_EIO, "hwloc cannot read the machine's topology: %s", strerror(errno));
    }
    hwloc_const_bitmap_t allowed = hwloc_topology_get_allowed_cpuset(self->hw);
    if ((self->usable = hwloc_bitmap_alloc()) == NULL) {
        dyn_topology_free(self);
        return DYN_ENOMEM;
    }
    if (hwloc_get_cpubind(self->hw, self->usable, HWLOC_CPUBIND_PROCESS) < 0 || hwloc_bitmap_iszero(self->usable))
        hwloc_bitmap_copy(self->usable, allowed);
    hwloc_bitmap_and(self->usable, self->usable, allowed);
    *out = self;
    return DYN_OK;
}

void dyn_topology_free(dyn_topology *self)
{
    if (self == NULL) return;
    hwloc_bitmap_free(self->usable);
    hwloc_topology_destroy(self->hw);
    dyn__free(self);
}

static uint32_t count(hwloc_topology_t hw, hwloc_obj_type_t type)
{
    int n = hwloc_get_nbobjs_by_type(hw, type);
    return n > 0 ? (uint32_t)n : 0;
}

static uint64_t cache(hwloc_topology_t hw, hwloc_obj_type_t type, uint32_t *line)
{
    hwloc_obj_t object = hwloc_get_obj_by_type(hw, type, 0);
    if (object == NULL || object->attr == NULL) return 0;
    if (object->attr->cache.linesize > 0) *line = object->attr->cache.linesize;
    return object->attr->cache.size;
}

void dyn_topology_read(const dyn_topology *self, dyn_topology_info *out)
{
    hwloc_obj_t machine = hwloc_get_root_obj(self->hw);
    *out = (dyn_topology_info){0};
    out->line = 64;
    out->packages = count(self->hw, HWLOC_OBJ_PACKAGE);
    out->nodes = count(self->hw, HWLOC_OBJ_NUMANODE);
    out->threads = count(self->hw, HWLOC_OBJ_PU);
    out->cores = count(self->hw, HWLOC_OBJ_CORE);
    if (out->packages == 0) out->packages = 1; /* some virtual machines do not say */
    if (out->cores == 0) out->cores = out->threads;
    out->usable = (uint32_t)hwloc_bitmap_weight(self->usable);
    out->l3 = cache(self->hw, HWLOC_OBJ_L3CACHE, &out->line);
    out->l2 = cache(self->hw, HWLOC_OBJ_L2CACHE, &out->line);
    out->l1d = cache(self->hw, HWLOC_OBJ_L1CACHE, &out->line);
    out->memory = machine != NULL ? machine->total_memory : 0;
}

int dyn_topology_pin(const dyn_topology *self, int thread)
{
    int rc = DYN_OK;
    hwloc_bitmap_t set = hwloc_bitmap_dup(self->usable);
    if (set == NULL) return DYN_ENOMEM;
    if (thread >= 0) {
        /* The nth usable one in the machine's order: hwloc sorts processors by nearness, bitmaps by number. */
        hwloc_obj_t unit = NULL;
        int left = thread;
        for (unsigned i = 0; i < count(self->hw, HWLOC_OBJ_PU); i++) {
            hwloc_obj_t object = hwloc_get_obj_by_type(self->hw, HWLOC_OBJ_PU, i);
            if (hwloc_bitmap_isset(set, object->os_index) && left-- == 0) unit = object;
        }
        if (unit == NULL)
            rc = dyn__fail(DYN_EINVAL, "thread %d: this process may use %d", thread, hwloc_bitmap_weight(set));
        else
            hwloc_bitmap_only(set, unit->os_index);
    } else if (thread != -1) {
        rc = dyn__fail(DYN_EINVAL, "thread %d: must be -1 or more", thread);
    }
    if (rc == DYN_OK && hwloc_set_cpubind(self->hw, set, HWLOC_CPUBIND_THREAD) < 0)
        rc = errno == ENOSYS || errno == EXDEV ? dyn__fail(DYN_ENOTSUP, "threads cannot be pinned on this system")
                                               : dyn_error_from_errno(errno);
    hwloc_bitmap_free(set);
    return rc;
}

int dyn_topology_where(const dyn_topology *self, const void *buffer, size_t bytes, int *out)
{
    if (buffer == NULL || bytes == 0) return dyn__fail(DYN_EINVAL, "an empty buffer lives nowhere");
    hwloc_bitmap_t set = hwloc_bitmap_alloc();
    int best = -1, rc = DYN_OK;
    size_t most = 0;
    if (set == NULL) return DYN_ENOMEM;
    /* A sample of at most 64 places is enough to say where most of it is. */
    size_t step = bytes / 64 > 4096 ? bytes / 64 : 4096;
    size_t votes[64] = {0};
    for (size_t at = 0; at < bytes && rc == DYN_OK; at += step) {
        if (hwloc_get_area_memlocation(self->hw, (const char *)buffer + at, 1, set, HWLOC_MEMBIND_BYNODESET) < 0) {
            if (errno == ENOSYS) rc = dyn__fail(DYN_ENOTSUP, "this system does not tell where memory is");
            continue; /* a page that nobody touched */
        }
        int node = hwloc_bitmap_first(set);
        hwloc_obj_t object = node < 0 ? NULL : hwloc_get_numanode_obj_by_os_index(self->hw, (unsigned)node);
        if (object == NULL || object->logical_index >= DYN__COUNT(votes)) continue;
        if (++votes[object->logical_index] > most)
            most = votes[object->logical_index], best = (int)object->logical_index;
    }
    hwloc_bitmap_free(set);
    if (rc == DYN_OK) *out = best;
    return rc;
}

const char *dyn_simd_level(void)
{
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512dq"))
        return "avx512";
    if (__builtin_cpu_supports("avx2")) return "avx2";
    return "scalar";
#elif defined(__aarch64__)
    return "neon";
#else
    return "scalar";
#endif
}
