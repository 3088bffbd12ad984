/*
 * The floor: an NBD server of one thread that does nothing but what cannot be left out.
 *
 *     floor SOCKET SIZE
 *
 * It takes all requests that one recv(2) brings, copies to or from memory, the data of a small write
 * straight out of the buffer that it was received into, and sends all replies with one sendmsg(2). No
 * checks, no Python, one client at a time: a load generator's friend, and nobody else's.
 */
#include <endian.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

enum { BATCH = 32, AHEAD = 128 << 10, LONGEST = 4 << 20 };

struct request {
    uint32_t magic;
    uint16_t flags, command;
    uint64_t cookie, at;
    uint32_t len;
} __attribute__((packed));

struct reply {
    uint32_t magic, error;
    uint64_t cookie;
} __attribute__((packed));

static char *disk;
static uint64_t size;
static char ahead[AHEAD], large[LONGEST];

static int receive(int client, void *to, size_t len)
{
    for (char *at = to; len > 0;) {
        ssize_t came = recv(client, at, len, 0);
        if (came <= 0)
            return 0;
        at += came;
        len -= came;
    }
    return 1;
}

static int send_all(int client, struct iovec *parts, int count)
{
    while (count > 0) {
        struct msghdr message = { .msg_iov = parts, .msg_iovlen = count };
        ssize_t sent = sendmsg(client, &message, MSG_NOSIGNAL);
        if (sent <= 0)
            return 0;
        for (; count > 0 && (size_t)sent >= parts->iov_len; count--)
            sent -= parts++->iov_len;
        if (count > 0) {
            parts->iov_base = (char *)parts->iov_base + sent;
            parts->iov_len -= sent;
        }
    }
    return 1;
}

static int say(int client, const void *words, size_t len)
{
    struct iovec part = { (void *)words, len };
    return send_all(client, &part, 1);
}

/* Every option but NBD_OPT_GO is unknown. */
static int negotiate(int client)
{
    struct { uint64_t magic; uint32_t option, len; } __attribute__((packed)) asked;
    struct { uint64_t magic; uint32_t option, kind, len; } __attribute__((packed)) answer;
    struct { uint16_t info; uint64_t size; uint16_t flags; } __attribute__((packed)) told;
    uint32_t flags;

    if (!say(client, "NBDMAGICIHAVEOPT\0\3", 18) || !receive(client, &flags, sizeof flags))
        return 0;
    for (;;) {
        if (!receive(client, &asked, sizeof asked) || be32toh(asked.len) > sizeof large ||
            !receive(client, large, be32toh(asked.len)))
            return 0;
        answer.magic = htobe64(0x3e889045565a9);
        answer.option = asked.option;
        answer.len = 0;
        if (be32toh(asked.option) != 7) {
            answer.kind = htobe32(0x80000001);
            if (!say(client, &answer, sizeof answer))
                return 0;
            continue;
        }
        told.info = 0;
        told.size = htobe64(size);
        told.flags = htobe16(5);
        answer.kind = htobe32(3);
        answer.len = htobe32(sizeof told);
        if (!say(client, &answer, sizeof answer) || !say(client, &told, sizeof told))
            return 0;
        answer.kind = htobe32(1);
        answer.len = 0;
        return say(client, &answer, sizeof answer);
    }
}

static void serve(int client)
{
    static struct reply replies[BATCH];
    static struct iovec parts[2 * BATCH];
    size_t start = 0, end = 0;

    for (;;) {
        int count = 0, used = 0;

        if (start == end)
            start = end = 0;
        memmove(ahead, ahead + start, end - start);
        end -= start;
        start = 0;
        ssize_t came = recv(client, ahead + end, AHEAD - end, 0);
        if (came <= 0)
            return;
        end += came;
        while (count < BATCH && end - start >= sizeof(struct request)) {
            struct request *request = (void *)(ahead + start);
            uint16_t command = be16toh(request->command);
            uint64_t at = be64toh(request->at), cookie = request->cookie;
            uint32_t len = be32toh(request->len);

            if (command == 2 || len > LONGEST || at > size || len > size - at)
                return;
            if (command == 1 && end - start - sizeof *request < len) {
                if (len <= AHEAD / 2 || count > 0)
                    break;
                size_t here = end - start - sizeof *request;
                memcpy(disk + at, ahead + start + sizeof *request, here);
                if (!receive(client, disk + at + here, len - here))
                    return;
                start = end;
            } else {
                start += sizeof *request;
                if (command == 1) {
                    memcpy(disk + at, ahead + start, len);
                    start += len;
                }
            }
            replies[count] = (struct reply){ htobe32(0x67446698), 0, cookie };
            parts[used++] = (struct iovec){ &replies[count++], sizeof(struct reply) };
            if (command == 0)
                parts[used++] = (struct iovec){ disk + at, len };
        }
        if (!send_all(client, parts, used))
            return;
    }
}

int main(int argc, char **argv)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    int listening = socket(AF_UNIX, SOCK_STREAM, 0);

    if (argc != 3 || strlen(argv[1]) >= sizeof address.sun_path) {
        fprintf(stderr, "usage: floor SOCKET SIZE\n");
        return 2;
    }
    strcpy(address.sun_path, argv[1]);
    size = strtoull(argv[2], NULL, 10);
    disk = malloc(size);
    if (disk == NULL || bind(listening, (void *)&address, sizeof address) < 0 ||
        listen(listening, 8) < 0) {
        perror("floor");
        return 1;
    }
    for (;;) {
        int client = accept(listening, NULL, NULL);
        if (client < 0)
            return 1;
        if (negotiate(client))
            serve(client);
        close(client);
    }
}
