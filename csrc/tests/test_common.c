#include <poll.h>
#include <pthread.h>

#include "dynamo/loop.h"
#include "dynamo/mailbox.h"
#include "test.h"

static void every_code_has_a_name_and_a_text(void)
{
    for (const int *code = dyn_error_codes(); *code != 0; code++) {
        CHECK(*code < 0);
        CHECK(strcmp(dyn_error_name(*code), "UNKNOWN") != 0);
        CHECK(strcmp(dyn_strerror(*code), "unknown error") != 0);
    }
    CHECK_STR(dyn_error_name(-9999), "UNKNOWN");
}

static void a_buffer_is_aligned_and_counted(void)
{
    dyn_buf *buf;
    CHECK_EQ(dyn_buf_new(&buf, 100), DYN_OK);
    CHECK_EQ((uintptr_t)dyn_buf_data(buf) % 64, 0);
    CHECK_EQ(dyn_buf_size(buf), 100);
    dyn_buf_unref(dyn_buf_ref(buf));
    memset(dyn_buf_data(buf), 1, 100);
    dyn_buf_unref(buf);
    CHECK_EQ(dyn_buf_new(&buf, SIZE_MAX), DYN_ENOMEM);
    EACH_ALLOCATION_FAILS {
        rc = dyn_buf_new(&buf, 8);
        if (rc == DYN_OK) dyn_buf_unref(buf);
    }
}

static void the_pages_of_a_large_buffer_serve_the_next_one(void)
{
    enum { SIZE = 8 << 20 };
    dyn_buf *first, *other, *zeroed;
    CHECK_EQ(dyn_buf_new(&first, SIZE), DYN_OK);
    uint8_t *was = memset(dyn_buf_data(first), 7, SIZE);
    dyn_buf_unref(first);
    CHECK_EQ(dyn_buf_new_zeroed(&zeroed, SIZE), DYN_OK);
    for (size_t i = 0; i < SIZE; i += 512) CHECK_EQ(dyn_buf_data(zeroed)[i], 0);
    CHECK_EQ(dyn_buf_new(&other, SIZE / 2), DYN_OK); /* of another size: the pages stay for one of theirs */
    CHECK_EQ(dyn_buf_size(other), SIZE / 2);
    memset(dyn_buf_data(other), 1, SIZE / 2);
    (void)was;
    CHECK_EQ(dyn_buf_new(&first, SIZE), DYN_OK);
    CHECK_EQ(dyn_buf_size(first), SIZE);
#if !defined(DYN__SANITIZED) && defined(__linux__)
    CHECK(dyn_buf_data(first) == was);
#endif
    memset(dyn_buf_data(first), 1, SIZE);
    dyn_buf_unref(first), dyn_buf_unref(other), dyn_buf_unref(zeroed);
}

static void *make_and_drop(void *arg)
{
    size_t size = (size_t)(4 + (uintptr_t)arg % 2 * 4) << 20;
    for (int i = 0; i < 200; i++) {
        dyn_buf *buf;
        if (dyn_buf_new(&buf, size) < 0) abort();
        uint8_t *data = dyn_buf_data(buf);
        memset(data, (int)(uintptr_t)arg, 64);
        memset(data + size - 64, (int)(uintptr_t)arg, 64);
        for (size_t k = 0; k < 64; k++)
            if (data[k] != (uint8_t)(uintptr_t)arg || data[size - 1 - k] != (uint8_t)(uintptr_t)arg) abort();
        dyn_buf_unref(buf);
    }
    return NULL;
}

static void threads_do_not_share_pages(void)
{
    pthread_t threads[4];
    for (uintptr_t i = 0; i < 4; i++) pthread_create(&threads[i], NULL, make_and_drop, (void *)(i + 1));
    for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
}

struct letter {
    dyn_mail mail;
    int sender, number;
};
static int dropped;
static void drop_letter(dyn_mail *mail)
{
    dropped++;
    free(mail);
}
static dyn_mailbox *box;
enum { SENDERS = 4, LETTERS = 20000 };
static void *send_letters(void *arg)
{
    for (int i = 0; i < LETTERS; i++) {
        struct letter *letter = malloc(sizeof(*letter));
        *letter = (struct letter){.mail = {.drop = drop_letter}, .sender = (int)(intptr_t)arg, .number = i};
        dyn_mailbox_put(box, &letter->mail);
    }
    return NULL;
}

static void mails_arrive_once_and_in_the_order_of_each_sender(void)
{
    pthread_t threads[SENDERS];
    int next[SENDERS] = {0}, left = SENDERS * LETTERS;
    CHECK_EQ(dyn_mailbox_new(&box), DYN_OK);
    for (intptr_t i = 0; i < SENDERS; i++) pthread_create(&threads[i], NULL, send_letters, (void *)i);
    while (left > 0) {
        if (dyn_mailbox_wait(box, 10000) != DYN_OK) break;
        for (dyn_mail *mail = dyn_mailbox_take(box), *after; mail != NULL; mail = after) {
            struct letter *letter = (struct letter *)mail;
            after = mail->next;
            CHECK_EQ(letter->number, next[letter->sender]);
            next[letter->sender]++;
            left--;
            free(letter);
        }
    }
    CHECK_EQ(left, 0);
    for (int i = 0; i < SENDERS; i++) pthread_join(threads[i], NULL);
    CHECK_EQ(dyn_mailbox_wait(box, 0), DYN_ETIMEDOUT);
    struct letter *last = malloc(sizeof(*last));
    last->mail.drop = drop_letter;
    dyn_mailbox_put(box, &last->mail);
    dropped = 0;
    dyn_mailbox_unref(box);
    CHECK_EQ(dropped, 1);
}

static int add_one(void *arg)
{
    return ++*(int *)arg;
}
struct count {
    dyn_task task;
    atomic_int *total;
};
static void count_one(dyn_task *task)
{
    struct count *count = (struct count *)task;
    atomic_fetch_add(count->total, 1);
    free(count);
}

static void the_loop_runs_what_is_posted_before_it_ends(void)
{
    dyn_loop *loop;
    atomic_int total = 0;
    int x = 41;
    CHECK_EQ(dyn_loop_new(&loop), DYN_OK);
    CHECK(!dyn_loop_here(loop));
    CHECK_EQ(dyn_loop_run(loop, add_one, &x), 42);
    for (int i = 0; i < 1000; i++) {
        struct count *count = malloc(sizeof(*count));
        *count = (struct count){.task = {.run = count_one}, .total = &total};
        dyn_loop_post(loop, &count->task);
    }
    dyn_loop_unref(loop);
    CHECK_EQ(atomic_load(&total), 1000);
    EACH_ALLOCATION_FAILS {
        rc = dyn_loop_new(&loop);
        if (rc == DYN_OK) dyn_loop_unref(loop);
    }
}

TEST_MAIN(TEST(every_code_has_a_name_and_a_text), TEST(a_buffer_is_aligned_and_counted),
          TEST(the_pages_of_a_large_buffer_serve_the_next_one), TEST(threads_do_not_share_pages),
          TEST(mails_arrive_once_and_in_the_order_of_each_sender), TEST(the_loop_runs_what_is_posted_before_it_ends))
