/* test_topology.c -- the machine under the test, which may be any. */
#include <sched.h>

#include "dynamo/topology.h"
#include "test.h"

static void the_numbers_hang_together(void)
{
    dyn_topology *self;
    dyn_topology_info info;
    CHECK_EQ(dyn_topology_new(&self), DYN_OK);
    dyn_topology_read(self, &info);
    CHECK(info.packages >= 1 && info.nodes >= 1);
    CHECK(info.cores >= 1 && info.threads >= info.cores);
    CHECK(info.usable >= 1 && info.usable <= info.threads);
    CHECK(info.line >= 16 && info.line <= 512);
    CHECK(info.l1d == 0 || info.l2 == 0 || info.l1d <= info.l2);
    CHECK(strlen(dyn_simd_level()) > 0);
    dyn_topology_free(self);
    dyn_topology_free(NULL);
}

static void a_thread_stays_where_it_is_pinned(void)
{
    dyn_topology *self;
    dyn_topology_info info;
    CHECK_EQ(dyn_topology_new(&self), DYN_OK);
    dyn_topology_read(self, &info);
    CHECK_EQ(dyn_topology_pin(self, (int)info.usable), DYN_EINVAL);
    CHECK_EQ(dyn_topology_pin(self, -2), DYN_EINVAL);
#ifdef __linux__
    cpu_set_t set;
    for (int i = 0; i < (int)info.usable; i++) {
        int rc = dyn_topology_pin(self, i);
        if (rc == DYN_EACCES) break; /* a sandbox */
        CHECK_EQ(rc, DYN_OK);
        sched_getaffinity(0, sizeof(set), &set);
        CHECK_EQ(CPU_COUNT(&set), 1);
        CHECK(CPU_ISSET(sched_getcpu(), &set));
    }
    CHECK_EQ(dyn_topology_pin(self, -1), DYN_OK);
#endif
    dyn_topology_free(self);
}

static void a_buffer_lives_on_a_node_once_it_is_touched(void)
{
    dyn_topology *self;
    int node = -2, rc;
    size_t size = 1 << 20;
    char *buffer = malloc(size);
    CHECK_EQ(dyn_topology_new(&self), DYN_OK);
    CHECK_EQ(dyn_topology_where(self, buffer, 0, &node), DYN_EINVAL);
    CHECK_EQ(dyn_topology_where(self, NULL, 1, &node), DYN_EINVAL);
    memset(buffer, 1, size);
    rc = dyn_topology_where(self, buffer, size, &node);
    CHECK(rc == DYN_ENOTSUP || (rc == DYN_OK && node >= -1));
    dyn_topology_free(self);
    free(buffer);
}

static void failing_allocations_are_reported(void)
{
    EACH_ALLOCATION_FAILS {
        dyn_topology *self = NULL;
        rc = dyn_topology_new(&self);
        if (rc == DYN_OK) dyn_topology_free(self);
    }
}

TEST_MAIN(TEST(the_numbers_hang_together), TEST(a_thread_stays_where_it_is_pinned),
          TEST(a_buffer_lives_on_a_node_once_it_is_touched), TEST(failing_allocations_are_reported))
