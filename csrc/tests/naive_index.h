/* naive_index.h -- the index as one would write it in an afternoon: the oracle of test_index.c and a baseline of the benchmark.
 *
 * A tree of nodes in an array, sets of workers as bits, everything found by looking at all of it.
 */
#ifndef DYN_NAIVE_INDEX_H
#define DYN_NAIVE_INDEX_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

enum { NAIVE_NODES = 2048, NAIVE_WORKERS = 16 };

typedef struct naive_node {
    uint64_t tokens, name;
    int parent; /* 0: the root */
    bool live, edge, closed;
    uint32_t workers;
} naive_node;

typedef struct naive_index {
    naive_node node[NAIVE_NODES];
    struct {
        bool live;
        uint64_t name;
        int node;
    } first[NAIVE_NODES]; /* the node that got a name first */
    struct {
        bool live;
        int node;
        uint64_t name;
    } other[NAIVE_WORKERS][NAIVE_NODES]; /* names of a worker that do not mean that */
    struct {
        bool known, foreign;
        uint64_t name;
    } used[NAIVE_WORKERS][NAIVE_NODES]; /* by node: another name that the worker used; foreign: never the node's own */
    bool aliases;
} naive_index;

static int naive_child(const naive_index *t, int parent, uint64_t tokens)
{
    for (int i = 1; i < NAIVE_NODES; i++)
        if (t->node[i].live && t->node[i].parent == parent && t->node[i].tokens == tokens) return i;
    return 0;
}

static int naive_first(const naive_index *t, uint64_t name)
{
    for (int i = 0; i < NAIVE_NODES; i++)
        if (t->first[i].live && t->first[i].name == name) return t->first[i].node;
    return 0;
}

static int naive_other(const naive_index *t, int w, uint64_t name)
{
    for (int i = 0; i < NAIVE_NODES; i++)
        if (t->other[w][i].live && t->other[w][i].name == name) return i;
    return -1;
}

static void naive_forget(naive_index *t, int w, uint64_t name, int node)
{
    int i = naive_other(t, w, name);
    if (i >= 0 && (node == 0 || t->other[w][i].node == node)) t->other[w][i].live = false;
}

static void naive_remember(naive_index *t, int w, uint64_t name, int node)
{
    int i = naive_other(t, w, name);
    for (int j = 0; i < 0 && j < NAIVE_NODES; j++)
        if (!t->other[w][j].live) i = j;
    t->other[w][i].live = true, t->other[w][i].name = name, t->other[w][i].node = node;
}

static int naive_lookup(const naive_index *t, int w, uint64_t name, bool to_remove)
{
    int i = naive_other(t, w, name);
    if (i >= 0 && !(to_remove && !t->aliases && t->node[t->other[w][i].node].name != name)) return t->other[w][i].node;
    int node = naive_first(t, name);
    return node != 0 && t->node[node].workers >> w & 1 && !t->used[w][node].foreign ? node : 0;
}

static int naive_any_child(const naive_index *t, int parent, bool plain_only)
{
    for (int i = 1; i < NAIVE_NODES; i++)
        if (t->node[i].live && t->node[i].parent == parent && !(plain_only && t->node[i].edge)) return i;
    return 0;
}

/* false: DYN_EBLOCK */
static bool naive_stored(naive_index *t, int w, const uint64_t *parent, const uint64_t *names, const uint64_t *tokens,
                         size_t n)
{
    int at = 0;
    if (parent != NULL) {
        if ((at = naive_lookup(t, w, *parent, false)) == 0) return false;
        if (n > 0 && names[0] == *parent) return false;
    }
    for (size_t i = 0; i < n; i++) {
        int child = naive_child(t, at, tokens[i]);
        if (child == 0) {
            for (child = 1; t->node[child].live; child++) continue;
            naive_node *node = &t->node[child];
            int plain = at ? naive_any_child(t, at, true) : 0;
            *node = (naive_node){tokens[i], names[i], at, false, true, false, 0};
            if (at != 0) {
                bool has_child = naive_any_child(t, at, false) != 0;
                node->edge = has_child || t->node[at].closed;
                if (has_child) t->node[at].closed = true;
                if (plain != 0) t->node[plain].edge = true;
            }
            node->live = true;
            if (naive_first(t, names[i]) == 0) {
                int j = 0;
                while (t->first[j].live) j++;
                t->first[j].live = true, t->first[j].name = names[i], t->first[j].node = child;
            }
        }
        bool held = t->node[child].workers >> w & 1;
        if (t->node[child].name == names[i]) {
            t->used[w][child].foreign = false;
            if (naive_first(t, names[i]) == child)
                naive_forget(t, w, names[i], 0);
            else
                naive_remember(t, w, names[i], child);
        } else {
            if (t->used[w][child].known && t->used[w][child].name != names[i])
                naive_forget(t, w, t->used[w][child].name, child);
            t->used[w][child].foreign = held ? t->used[w][child].foreign : true;
            t->used[w][child].known = true;
            t->used[w][child].name = names[i];
            naive_remember(t, w, names[i], child);
        }
        t->node[child].workers |= 1u << w;
        at = child;
    }
    return true;
}

static void naive_release(naive_index *t, int i)
{
    while (i != 0 && t->node[i].workers == 0 && naive_any_child(t, i, false) == 0) {
        t->node[i].live = false;
        for (int j = 0; j < NAIVE_NODES; j++)
            if (t->first[j].live && t->first[j].node == i) t->first[j].live = false;
        i = t->node[i].parent;
    }
}

static void naive_drop(naive_index *t, int w, int i)
{
    t->node[i].workers &= ~(1u << w);
    naive_forget(t, w, t->node[i].name, i);
    if (t->used[w][i].known) naive_forget(t, w, t->used[w][i].name, i);
    memset(&t->used[w][i], 0, sizeof(t->used[w][i]));
}

static bool naive_removed(naive_index *t, int w, const uint64_t *names, size_t n)
{
    bool all = true;
    for (size_t i = 0; i < n; i++) {
        int at = naive_lookup(t, w, names[i], true), last = at;
        if (at == 0) all = false;
        for (; at != 0 && t->node[at].workers >> w & 1; at = naive_any_child(t, at, true)) naive_drop(t, w, last = at);
        naive_release(t, last);
    }
    return all;
}

static void naive_cleared(naive_index *t, int w)
{
    for (int i = 1; i < NAIVE_NODES; i++)
        if (t->node[i].live && t->node[i].workers >> w & 1) naive_drop(t, w, i), naive_release(t, i);
}

static void naive_find(const naive_index *t, const uint64_t *tokens, size_t n, bool early,
                       uint32_t scores[NAIVE_WORKERS])
{
    uint32_t active = ~0u;
    memset(scores, 0, NAIVE_WORKERS * sizeof(*scores));
    for (size_t i = 0, at = 0; i < n && active != 0; i++) {
        at = (size_t)naive_child(t, (int)at, tokens[i]);
        if (at == 0) return;
        if (early && i > 0 && t->node[at].edge && (active & (active - 1)) == 0) return;
        active &= t->node[at].workers;
        for (int w = 0; w < NAIVE_WORKERS; w++)
            if (active >> w & 1) scores[w] = (uint32_t)i + 1;
    }
}
#endif
