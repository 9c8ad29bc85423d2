/* A peer that says anything: the bytes go to a real server over loopback, whose endpoint answers at once. */
#include <arpa/inet.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/common.h"
#include "dynamo/service.h"

static void echo(void *user, dyn_stream *stream)
{
    (void)user;
    dyn_slice payload = dyn_stream_payload(stream);
    for (int i = 0; i < 3; i++) dyn_stream_send(stream, payload.data, payload.size, NULL);
    dyn_stream_end(stream, NULL);
    dyn_stream_unref(stream);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static dyn_server *server;
    if (server == NULL) {
        dyn_loop *loop;
        dyn_endpoint *endpoint;
        dyn_service_options options = {.max_frame = 1 << 16, .window = 1000, .max_streams = 16};
        if (dyn_loop_new(&loop) < 0 || dyn_server_new(&server, loop, "127.0.0.1", 0, &options) < 0) abort();
        if (dyn_server_serve(server, "p", &(dyn_endpoint_events){echo, NULL}, NULL, &endpoint) < 0) abort();
    }
    struct sockaddr_in at = {
        .sin_family = AF_INET, .sin_port = htons(dyn_server_port(server)), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&at, sizeof at) < 0) abort();
    dyn_bytes hello = {0};
    if (dyn_hello_write(&hello, 1 << 16) < 0) abort();
    uint8_t sink[4096];
    if (send(fd, hello.data, hello.size, MSG_NOSIGNAL) > 0 && size > 0 && send(fd, data, size, MSG_NOSIGNAL) > 0) {
        shutdown(fd, SHUT_WR);
        while (recv(fd, sink, sizeof sink, 0) > 0) {
        }
    }
    dyn_bytes_free(&hello);
    close(fd);
    return 0;
}
