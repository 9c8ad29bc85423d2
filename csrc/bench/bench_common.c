/* bench_common.c -- what a buffer costs, and what it costs to hand a mail to another thread. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "common/common.h"
#include "dynamo/mailbox.h"

enum { MAILS = 5000000 };

static void buffers(size_t size, int rounds)
{
    uint64_t start = dyn_now_ns();
    for (int i = 0; i < rounds; i++) {
        dyn_buf *buf;
        if (dyn_buf_new(&buf, size) < 0) abort();
        dyn_buf_data(buf)[0] = 1;
        dyn_buf_unref(buf);
    }
    printf("buffer of %9zu bytes, made and given back %9.1f ns\n", size, (double)(dyn_now_ns() - start) / rounds);
}

static void keep(dyn_mail *mail)
{
    (void)mail;
}

static void *put_all(void *arg)
{
    dyn_mailbox *box = ((void **)arg)[0];
    dyn_mail *mails = ((void **)arg)[1];
    for (int i = 0; i < MAILS; i++) {
        mails[i].drop = keep;
        dyn_mailbox_put(box, &mails[i]);
    }
    return NULL;
}

static void mails(void)
{
    dyn_mailbox *box;
    dyn_mail *all = calloc(MAILS, sizeof *all);
    pthread_t writer;
    if (all == NULL || dyn_mailbox_new(&box) < 0) abort();
    void *arg[] = {box, all};
    uint64_t start = dyn_now_ns();
    pthread_create(&writer, NULL, put_all, arg);
    int taken = 0, turns = 0;
    while (taken < MAILS) {
        dyn_mailbox_wait(box, 1000);
        for (dyn_mail *mail = dyn_mailbox_take(box); mail != NULL; mail = mail->next) taken++;
        turns++;
    }
    pthread_join(writer, NULL);
    printf("mail from thread to thread %6.1f ns, %.1f mails a wake-up\n", (double)(dyn_now_ns() - start) / MAILS,
           (double)MAILS / turns);
    dyn_mailbox_unref(box);
    free(all);
}

int main(void)
{
    buffers(256, 5000000);
    buffers(64 << 10, 1000000);
    buffers(8 << 20, 2000);
    mails();
    return 0;
}
